package topicconfig

import (
	"math"
	"strconv"
	"strings"
)

// rule says which values of a config's type are allowed. The zero rule allows all.
type rule struct {
	min, max   float64 // of a number, where bounded
	bounded    bool
	oneOf      []string            // of a string, or of each item of a list
	otherwise  func(string) string // says what is wrong with the value, or nothing
	extraValue float64             // allowed besides [min, max] where hasExtra
	hasExtra   bool
}

func atLeast(n float64) rule      { return rule{min: n, max: math.Inf(1), bounded: true} }
func between(lo, hi float64) rule { return rule{min: lo, max: hi, bounded: true} }
func oneOf(values ...string) rule { return rule{oneOf: values} }

// value is a parsed config value; which field holds it depends on the type.
type value struct {
	b    bool
	n    int64
	f    float64
	s    string
	list []string
}

func (k *Key) wrong(v, what string) error {
	return invalidf("Invalid value %s for configuration %s: %s", v, k.Name, what)
}

// parse reads a value as Kafka's ConfigDef does: blanks around it do not count.
func (k *Key) parse(raw string) (value, error) {
	text := strings.TrimSpace(raw)
	var v value
	switch k.Type {
	case Boolean:
		switch strings.ToLower(text) {
		case "true":
			v.b = true
		case "false":
		default:
			return v, k.wrong(raw, "Expected value to be either true or false")
		}
	case Int, Long:
		bits := 64
		if k.Type == Int {
			bits = 32
		}
		n, err := strconv.ParseInt(text, 10, bits)
		if err != nil {
			return v, k.wrong(raw, "Not a number of type "+k.Type.String())
		}
		v.n = n
		return v, k.checkNumber(raw, float64(n))
	case Double:
		f, err := strconv.ParseFloat(text, 64)
		if err != nil || math.IsNaN(f) {
			return v, k.wrong(raw, "Not a number of type DOUBLE")
		}
		v.f = f
		return v, k.checkNumber(raw, f)
	case String:
		v.s = text
		if k.rule.oneOf != nil && !contains(k.rule.oneOf, text) {
			return v, k.wrong(raw, "String must be one of: "+strings.Join(k.rule.oneOf, ", "))
		}
	case List:
		v.list = splitList(text)
		return v, k.checkList(raw, v.list)
	}
	return v, nil
}

func (k *Key) checkNumber(raw string, f float64) error {
	r := k.rule
	switch {
	case !r.bounded || r.hasExtra && f == r.extraValue:
		return nil
	case f < r.min:
		return k.wrong(raw, "Value must be at least "+strconv.FormatFloat(r.min, 'f', -1, 64))
	case f > r.max:
		return k.wrong(raw, "Value must be no more than "+strconv.FormatFloat(r.max, 'f', -1, 64))
	}
	return nil
}

func (k *Key) checkList(raw string, items []string) error {
	seen := map[string]bool{}
	for _, item := range items {
		switch {
		case k.rule.oneOf != nil && !contains(k.rule.oneOf, item):
			return k.wrong(item, "String must be one of: "+strings.Join(k.rule.oneOf, ", "))
		case item == "":
			return k.wrong(raw, "Configuration values must not be empty")
		case seen[item]:
			return k.wrong(raw, "Configuration values must not be duplicated")
		}
		seen[item] = true
	}
	if k.rule.otherwise != nil {
		if what := k.rule.otherwise(strings.Join(items, ",")); what != "" {
			return k.wrong(raw, what)
		}
	}
	return nil
}

// throttledReplicas: * alone, or a list of partition:node.
func throttledReplicas(list string) string {
	const want = "must be the literal '*' or a list of replicas in the following format: [partitionId]:[brokerId],[partitionId]:[brokerId],..."
	if list == "*" || list == "" {
		return ""
	}
	for _, item := range strings.Split(list, ",") {
		p, n, ok := strings.Cut(item, ":")
		if !ok || !digits(p) || !digits(n) {
			return want
		}
	}
	return ""
}

func digits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

func contains(list []string, s string) bool {
	for _, v := range list {
		if v == s {
			return true
		}
	}
	return false
}
