package settings

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"
)

// flagValue keeps the text of a flag, so that one parser reads all sources.
type flagValue struct {
	row  *Setting
	text string
	list bool
}

func (f *flagValue) String() string { return f.text }
func (f *flagValue) Type() string   { return kind(f.row.field(&Settings{})) }
func (f *flagValue) Set(text string) error {
	if f.list && f.text != "" && f.text != f.row.Default {
		text = f.text + "," + text
	}
	f.text = text
	return nil
}

// AddFlags defines the flags of the settings that apply to cmd.
func AddFlags(fs *pflag.FlagSet, cmd Command) {
	for i := range table {
		row := &table[i]
		if row.Commands&cmd == 0 {
			continue
		}
		p := row.field(&Settings{})
		_, list := p.(*[]string)
		f := fs.VarPF(&flagValue{row: row, text: row.Default, list: list}, row.Name, "", row.Meaning)
		if _, ok := p.(*bool); ok {
			f.NoOptDefVal = "true"
		}
	}
}

// given is a value that some source gave for a setting.
type given struct {
	row    *Setting
	text   string
	source string // how to name it in an error
}

// Load puts the settings of cmd together from the flags in fs (defined by AddFlags and
// parsed), environ ("NAME=value") and the YAML file that they name, and validates them.
// An error is an *Error, except for a file that cannot be read.
func Load(fs *pflag.FlagSet, environ []string, cmd Command) (*Settings, error) {
	fromEnv, err := readEnviron(environ)
	if err != nil {
		return nil, err
	}
	fromFlags := readFlags(fs)
	s := Defaults()
	for _, g := range slices.Concat(fromEnv, fromFlags) {
		if g.row.Name == "config" {
			s.Config = g.text
		}
	}
	var fromFile []given
	if s.Config != "" {
		if fromFile, err = readFile(s.Config); err != nil {
			return nil, err
		}
	}
	for _, g := range slices.Concat(fromFile, fromEnv, fromFlags) {
		if err := g.row.set(s, g.text); err != nil {
			return nil, named(err, g.source)
		}
		s.sources[g.row.Name] = g.source
	}
	if err := s.finish(cmd); err != nil {
		return nil, err
	}
	return s, nil
}

// Defaults returns the settings as they are when nothing is given, before validation.
func Defaults() *Settings {
	s := &Settings{sources: map[string]string{}}
	for i := range table {
		if err := table[i].set(s, table[i].Default); err != nil {
			panic(fmt.Sprintf("settings: default of %s: %v", table[i].Name, err))
		}
	}
	return s
}

func named(err error, source string) error {
	var e *Error
	if errors.As(err, &e) {
		return &Error{Name: source, Why: e.Why, Remedy: e.Remedy}
	}
	return fmt.Errorf("%s: %w", source, err)
}

func readFlags(fs *pflag.FlagSet) []given {
	var out []given
	fs.Visit(func(f *pflag.Flag) {
		if v, ok := f.Value.(*flagValue); ok {
			out = append(out, given{v.row, v.text, v.row.Flag()})
		}
	})
	return out
}

const envPrefix = "FLOE_"

func readEnviron(environ []string) ([]given, error) {
	var out []given
	for _, kv := range environ {
		name, text, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) || injected(name) {
			continue
		}
		row := find(strings.ReplaceAll(strings.ToLower(strings.TrimPrefix(name, envPrefix)), "_", "-"))
		if row == nil || row.Env() != name {
			return nil, unknown(name, "environment variable", (*Setting).Env)
		}
		out = append(out, given{row, text, name})
	}
	slices.SortFunc(out, func(a, b given) int { return strings.Compare(a.source, b.source) })
	return out, nil
}

// injected recognises the variables that Kubernetes puts into every pod beside a Service
// that is called floe, or floe-something: FLOE_PORT, FLOE_SERVICE_HOST,
// FLOE_AGENT_PORT_9092_TCP_ADDR. No setting has such a name.
func injected(name string) bool {
	return strings.HasSuffix(name, "_PORT") || strings.Contains(name, "_PORT_") || strings.Contains(name, "_SERVICE_")
}

// maxFile bounds the settings file. Not smaller: comments may be long. Not larger: it is
// read whole, and one that is this large is the wrong file.
const maxFile = 1 << 20

func readFile(path string) ([]given, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, &Error{Name: "config", Why: plain(err), Remedy: "name a YAML file that can be read"}
	}
	if info.IsDir() || info.Size() > maxFile {
		return nil, &Error{Name: "config", Why: path + " is a directory or larger than 1MiB", Remedy: "name a YAML file"}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, &Error{Name: "config", Why: plain(err), Remedy: "name a YAML file that can be read"}
	}
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		why := strings.Join(strings.Fields(strings.TrimPrefix(err.Error(), "yaml: ")), " ")
		return nil, &Error{Name: "config", Why: path + " is not YAML: " + why, Remedy: "write one `name: value` a line"}
	}
	if len(doc.Content) == 0 {
		return nil, nil
	}
	return readNodes(path, doc.Content[0])
}

func readNodes(path string, top *yaml.Node) ([]given, error) {
	if top.Kind != yaml.MappingNode {
		return nil, &Error{Name: "config", Why: path + " is not a list of settings", Remedy: "write one `name: value` a line"}
	}
	var out []given
	seen := map[string]bool{}
	for i := 0; i+1 < len(top.Content); i += 2 {
		key, value := top.Content[i], top.Content[i+1]
		source := fmt.Sprintf("%s (%s:%d)", key.Value, path, key.Line)
		row := find(key.Value)
		switch {
		case row == nil:
			return nil, unknown(source, "key", func(row *Setting) string { return row.Name })
		case row.Name == "config":
			return nil, &Error{Name: source, Why: "a file cannot name another", Remedy: "give --config or FLOE_CONFIG"}
		case seen[row.Name]:
			return nil, &Error{Name: source, Why: "the key is there twice", Remedy: "keep one of them"}
		}
		seen[row.Name] = true
		text, err := nodeText(row, value)
		if err != nil {
			return nil, named(err, source)
		}
		out = append(out, given{row, text, source})
	}
	return out, nil
}

func nodeText(row *Setting, n *yaml.Node) (string, error) {
	if _, list := row.field(&Settings{}).(*[]string); list && n.Kind == yaml.SequenceNode {
		var items []string
		for _, item := range n.Content {
			if item.Kind != yaml.ScalarNode {
				return "", &Error{Why: "an element of the list is not a plain value", Remedy: "write [a, b]"}
			}
			items = append(items, item.Value)
		}
		return strings.Join(items, ","), nil
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return "", &Error{Why: "the key has no value", Remedy: "give it one or remove the key"}
	}
	if n.Kind != yaml.ScalarNode {
		return "", &Error{Why: "the value is not a plain " + kind(row.field(&Settings{})), Remedy: "write `" + row.Name + ": value`"}
	}
	return n.Value, nil
}

// plain is the message of a file error without the name of the system call.
func plain(err error) string {
	var pe *os.PathError
	if errors.As(err, &pe) {
		return pe.Path + ": " + pe.Err.Error()
	}
	return err.Error()
}

// unknown refuses a name, with the known name that is closest to it if one is close.
func unknown(name, what string, known func(*Setting) string) error {
	word, _, _ := strings.Cut(name, " ")
	best, bestDistance := "", 4
	for i := range table {
		if d := distance(word, known(&table[i])); d < bestDistance {
			best, bestDistance = known(&table[i]), d
		}
	}
	remedy := "`floe settings` lists what there is"
	if best != "" {
		remedy = "did you mean " + best + "?"
	}
	return &Error{Name: name, Why: "no such " + what, Remedy: remedy}
}

// distance is the number of single-character edits between a and b (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := 1
			if a[i] == b[j] {
				cost = 0
			}
			diagonal, row[j+1] = row[j+1], min(row[j+1]+1, row[j]+1, diagonal+cost)
		}
	}
	return row[len(b)]
}
