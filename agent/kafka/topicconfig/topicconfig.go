// Package topicconfig is the table of topic configs: name, type, default, rule, broker
// synonym and documentation of every config that Kafka 4 has, and what each means to
// Floe. It is the one place that turns a topic's config strings into typed settings.
//
//  1. A config that passes Validate parses in Parse; what Parse returns is immutable.
//  2. Kafka's names, defaults and rules hold, whether a config has an effect on Floe or
//     not: tools that set it keep working. The documentation says where it has none.
//
// All functions are pure and may be called concurrently.
package topicconfig

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"
)

// ErrInvalid marks every refusal of this package: Kafka's INVALID_CONFIG.
var ErrInvalid = errors.New("invalid topic config")

// invalid is an ErrInvalid whose text is what the client is shown.
type invalid string

func (e invalid) Error() string        { return string(e) }
func (e invalid) Is(target error) bool { return target == ErrInvalid }

func invalidf(format string, args ...any) error { return invalid(fmt.Sprintf(format, args...)) }

// Type is a config's type, with the numbers of DescribeConfigs (KIP-569).
type Type int8

// The types of configs.
const (
	Boolean Type = 1
	String  Type = 2
	Int     Type = 3
	Long    Type = 5
	Double  Type = 6
	List    Type = 7
)

func (t Type) String() string {
	return map[Type]string{Boolean: "BOOLEAN", String: "STRING", Int: "INT", Long: "LONG", Double: "DOUBLE", List: "LIST"}[t]
}

// Key is one topic config.
type Key struct {
	Name    string
	Type    Type
	Default string
	Synonym string // the broker config that gives the default; empty for none
	Doc     string // ends with a note where the config has no effect on Floe
	// synonymDefault is the default in the synonym's own unit, where that differs.
	synonymDefault string
	rule           rule
}

// SynonymDefault returns the default as the broker synonym spells it: hours where the
// topic config has milliseconds.
func (k *Key) SynonymDefault() string {
	if k.synonymDefault != "" {
		return k.synonymDefault
	}
	return k.Default
}

var byName = func() map[string]*Key {
	m := make(map[string]*Key, len(table))
	for i := range table {
		m[table[i].Name] = &table[i]
	}
	return m
}()

// Lookup returns the named config, or nil.
func Lookup(name string) *Key { return byName[name] }

// All returns every config, ordered by name.
func All() []*Key {
	keys := slices.Collect(maps.Values(byName))
	sort.Slice(keys, func(i, j int) bool { return keys[i].Name < keys[j].Name })
	return keys
}

// Validate checks a topic's overrides: that each is known and each value allowed, and
// that they agree with each other. Defaults are those under the overrides (may be nil).
// Every error is ErrInvalid, and its text names config and value.
func Validate(overrides, defaults map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(overrides)) {
		k := byName[name]
		if k == nil {
			return invalidf("Unknown topic config name: %s", name)
		}
		if err := k.Check(overrides[name]); err != nil {
			return err
		}
	}
	_, err := Parse(overrides, defaults)
	return err
}

// Check reports whether value is allowed, in Kafka's words.
func (k *Key) Check(value string) error {
	_, err := k.parse(value)
	return err
}

// Edit is one change of an incremental alteration (KIP-339).
type Edit struct {
	Name  string
	Op    Op
	Value *string
}

// Op is the kind of an Edit, with Kafka's numbers.
type Op int8

// The kinds of edits.
const (
	Set      Op = 0
	Delete   Op = 1
	Append   Op = 2
	Subtract Op = 3
)

// Apply returns a topic's overrides after the edits; current is left as it is. The
// result is not yet validated as a whole. Appending and subtracting start from the
// value in force, and leave a list without duplicates, as Kafka does.
func Apply(current, defaults map[string]string, edits []Edit) (map[string]string, error) {
	next := maps.Clone(current)
	if next == nil {
		next = map[string]string{}
	}
	for _, e := range edits {
		k := byName[e.Name]
		switch {
		case e.Op == Delete: // whatever is stored can be removed, also what is not known any more
			if _, stored := current[e.Name]; k == nil && !stored {
				return nil, invalidf("Unknown topic config name: %s", e.Name)
			}
			delete(next, e.Name)
			continue
		case e.Op < Set || e.Op > Subtract:
			return nil, invalidf("Unknown operation type %d for configuration %s", e.Op, e.Name)
		case k == nil:
			return nil, invalidf("Unknown topic config name: %s", e.Name)
		case e.Value == nil:
			return nil, invalidf("Null value not supported for topic configs: %s", e.Name)
		case e.Op != Set && k.Type != List:
			return nil, invalidf("Config value append is not allowed for config key: %s", e.Name)
		}
		if e.Op == Set {
			next[e.Name] = *e.Value
			continue
		}
		value, ok := next[e.Name]
		if !ok {
			value = inForce(k, defaults)
		}
		next[e.Name] = editList(value, *e.Value, e.Op)
	}
	return next, nil
}

func editList(current, change string, op Op) string {
	items := splitList(current)
	for _, v := range splitList(change) {
		i := slices.Index(items, v)
		switch {
		case op == Append && i < 0:
			items = append(items, v)
		case op == Subtract && i >= 0:
			items = slices.Delete(items, i, i+1)
		}
	}
	return strings.Join(items, ",")
}

// splitList splits at commas; blanks around items do not count.
func splitList(s string) []string {
	if s = strings.TrimSpace(s); s == "" {
		return nil
	}
	items := strings.Split(s, ",")
	for i := range items {
		items[i] = strings.TrimSpace(items[i])
	}
	return items
}

func inForce(k *Key, defaults map[string]string) string {
	if v, ok := defaults[k.Name]; ok {
		return v
	}
	return k.Default
}
