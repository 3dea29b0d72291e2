package house

import (
	"go/ast"
	"path"
	"slices"
	"strings"
	"testing"
)

// vague names say nothing about what a package is for.
var vague = []string{"util", "utils", "common", "helper", "helpers", "types", "base", "manager", "misc", "shared"}

func TestPackageNamesAndComments(t *testing.T) {
	dirs, byDir := packages(sources(t))
	for _, dir := range dirs {
		if slices.Contains(vague, path.Base(dir)) {
			t.Errorf("%s: the name says nothing: call it after what it does or holds", dir)
		}
		comment, onlyTests := false, true
		for _, f := range byDir[dir] {
			comment = comment || f.file.Doc != nil && !strings.HasSuffix(f.file.Name.Name, "_test")
			onlyTests = onlyTests && f.test()
		}
		if !comment && !onlyTests {
			t.Errorf("%s has no package comment: state its one job, its invariants, and who may call it at the same time", dir)
		}
	}
}

func TestExportedNamesAreDocumented(t *testing.T) {
	for _, f := range sources(t) {
		if f.test() || f.generated() {
			continue
		}
		for _, decl := range f.file.Decls {
			switch d := decl.(type) {
			case *ast.FuncDecl:
				if d.Recv == nil && d.Name.IsExported() && d.Doc == nil {
					t.Errorf("%s:%d: %s has no comment: say what it does, units, errors", f.path, f.line(d), d.Name.Name)
				}
			case *ast.GenDecl:
				for _, spec := range d.Specs {
					ts, ok := spec.(*ast.TypeSpec)
					if ok && ts.Name.IsExported() && d.Doc == nil && ts.Doc == nil && ts.Comment == nil {
						t.Errorf("%s:%d: %s has no comment: say what it is", f.path, f.line(ts), ts.Name.Name)
					}
				}
			}
		}
	}
}

const (
	maxFileLines     = 500
	maxTestFileLines = 700
	maxFunctionLines = 70
)

// large lists what is larger than it should be, with its lines today. It may only
// shrink: when a test says that an entry is too generous, lower or remove it.
var large = map[string]int{}

// ratchet compares a size with its limit and its exception.
func ratchet(t *testing.T, seen map[string]bool, name string, lines, limit int, cure string) {
	t.Helper()
	allowed, listed := large[name]
	seen[name] = seen[name] || listed
	switch {
	case listed && lines <= limit:
		t.Errorf("%s has shrunk to %d lines: remove it from large", name, lines)
	case listed && lines < allowed:
		t.Errorf("%s has shrunk to %d lines: lower its %d in large", name, lines, allowed)
	case listed && lines > allowed:
		t.Errorf("%s has grown from %d to %d lines: %s", name, allowed, lines, cure)
	case !listed && lines > limit:
		t.Errorf("%s has %d lines, more than %d: %s", name, lines, limit, cure)
	}
}

func TestSizes(t *testing.T) {
	seen := map[string]bool{}
	for _, f := range sources(t) {
		if f.generated() {
			continue
		}
		limit := maxFileLines
		if f.test() {
			limit = maxTestFileLines
		}
		ratchet(t, seen, f.path, f.lines, limit, "split it by what its parts do")
		if f.test() {
			continue
		}
		for _, decl := range f.file.Decls {
			if d, ok := decl.(*ast.FuncDecl); ok {
				lines := f.fset.Position(d.End()).Line - f.line(d) + 1
				ratchet(t, seen, f.path+" "+functionName(d), lines, maxFunctionLines, "give its parts names of their own")
			}
		}
	}
	for name := range large {
		if !seen[name] {
			t.Errorf("%s is in large and does not exist: remove it", name)
		}
	}
}

// functionName returns Name or Receiver.Name.
func functionName(d *ast.FuncDecl) string {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return d.Name.Name
	}
	typ := d.Recv.List[0].Type
	for {
		switch x := typ.(type) {
		case *ast.StarExpr:
			typ = x.X
		case *ast.IndexExpr:
			typ = x.X
		case *ast.IndexListExpr:
			typ = x.X
		case *ast.Ident:
			return x.Name + "." + d.Name.Name
		default:
			return d.Name.Name
		}
	}
}

// call is a use of a function of another package.
type call struct {
	pkg, name string // import path and function
	line      int
}

// calls returns the uses of exported names of imported packages in a file.
func calls(f *source) []call {
	local := map[string]string{}
	for _, spec := range f.file.Imports {
		p := strings.Trim(spec.Path.Value, `"`)
		name := path.Base(p)
		if name == "v2" {
			name = path.Base(path.Dir(p))
		}
		if spec.Name != nil {
			name = spec.Name.Name
		}
		local[name] = p
	}
	var out []call
	ast.Inspect(f.file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && local[x.Name] != "" {
			out = append(out, call{local[x.Name], sel.Sel.Name, f.line(sel)})
		}
		return true
	})
	return out
}

// ownRandomness are the names of math/rand that give a generator of one's own.
var ownRandomness = []string{"New", "NewPCG", "NewChaCha8", "NewSource", "NewZipf", "Rand", "Source", "PCG", "ChaCha8", "Zipf"}

func TestForbiddenCalls(t *testing.T) {
	looked := 0
	for _, f := range sources(t) {
		for _, c := range calls(f) {
			looked++
			inTests := f.test() || f.support()
			switch {
			case c.pkg == "time" && c.name == "Sleep" && !inTests:
				t.Errorf("%s:%d: time.Sleep: wait for the event itself, or for a timer and ctx.Done() together", f.path, c.line)
			case c.pkg == "os" && slices.Contains([]string{"Getenv", "LookupEnv", "Environ", "ExpandEnv"}, c.name) && !inTests && f.path != "cmd/floe/main.go":
				t.Errorf("%s:%d: os.%s: the environment is read in cmd/floe/main.go only: add a setting", f.path, c.line, c.name)
			case (c.pkg == "math/rand" || c.pkg == "math/rand/v2") && !slices.Contains(ownRandomness, c.name):
				t.Errorf("%s:%d: rand.%s: the global generator cannot be replayed: take a *rand.Rand", f.path, c.line, c.name)
			case c.pkg == "os" && c.name == "Exit" && !f.test() && f.file.Name.Name != "main":
				t.Errorf("%s:%d: os.Exit: return an error", f.path, c.line)
			}
		}
	}
	if looked == 0 {
		t.Error("no call was seen")
	}
}

func TestNoInit(t *testing.T) {
	for _, f := range sources(t) {
		if f.generated() {
			continue
		}
		for _, decl := range f.file.Decls {
			if d, ok := decl.(*ast.FuncDecl); ok && d.Recv == nil && d.Name.Name == "init" {
				t.Errorf("%s:%d: init: what runs by being imported cannot be tested or ordered: call it from a constructor", f.path, f.line(d))
			}
		}
	}
}
