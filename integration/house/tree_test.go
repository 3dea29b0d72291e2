package house

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
)

const module = "github.com/floelog/floe/"

// source is one Go file of the repository, parsed, under whatever build tags.
type source struct {
	path  string // from the root, with slashes
	file  *ast.File
	lines int
	fset  *token.FileSet
}

// dir is the package's folder from the root, such as "tiering/objstore/s3".
func (s *source) dir() string { return path.Dir(s.path) }

func (s *source) test() bool      { return strings.HasSuffix(s.path, "_test.go") }
func (s *source) generated() bool { return ast.IsGenerated(s.file) }

// support reports whether the file serves only tests: package integration and below,
// and packages that exist to hold suites, such as objstoretest.
func (s *source) support() bool {
	return within(s.dir(), "integration") || strings.HasSuffix(path.Base(s.dir()), "test")
}

func (s *source) line(n ast.Node) int { return s.fset.Position(n.Pos()).Line }

// imports returns the import paths of the file; those of the module without its name.
func (s *source) imports() []string {
	var out []string
	for _, spec := range s.file.Imports {
		p, err := strconv.Unquote(spec.Path.Value)
		if err != nil {
			continue // the parser has checked it
		}
		out = append(out, p)
	}
	return out
}

// within reports whether dir is folder or lies below it.
func within(dir, folder string) bool { return dir == folder || strings.HasPrefix(dir, folder+"/") }

// sources parses every Go file of the repository.
func sources(t *testing.T) []*source {
	t.Helper()
	root := filepath.Join("..", "..")
	if _, err := os.Stat(filepath.Join(root, "go.mod")); err != nil {
		t.Fatal(err)
	}
	fset := token.NewFileSet()
	var out []*source
	err := filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name := d.Name()
		if d.IsDir() {
			if p != root && (name == "testdata" || name == "bin" || strings.HasPrefix(name, ".") || nested(p)) {
				return filepath.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") {
			return nil
		}
		file, err := parser.ParseFile(fset, p, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, p)
		if err != nil {
			return err
		}
		out = append(out, &source{filepath.ToSlash(rel), file, fset.File(file.FileStart).LineCount(), fset})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(out) < 50 {
		t.Fatalf("found %d Go files: this test no longer sees the repository", len(out))
	}
	return out
}

// nested reports whether a folder is a module of its own.
func nested(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, "go.mod"))
	return err == nil
}

// packages groups the files by folder, in order.
func packages(files []*source) (dirs []string, byDir map[string][]*source) {
	byDir = map[string][]*source{}
	for _, f := range files {
		byDir[f.dir()] = append(byDir[f.dir()], f)
	}
	for dir := range byDir {
		dirs = append(dirs, dir)
	}
	slices.Sort(dirs)
	return dirs, byDir
}
