package settings

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Bytes is a size in bytes. It is written with its unit: B, KiB, MiB, GiB or TiB.
type Bytes int64

var byteUnits = []struct {
	name string
	size Bytes
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// String writes the size in the largest unit that leaves a whole number.
func (b Bytes) String() string {
	for _, u := range byteUnits {
		if b%u.size == 0 && (b != 0 || u.size == 1) {
			return strconv.FormatInt(int64(b/u.size), 10) + u.name
		}
	}
	return strconv.FormatInt(int64(b), 10) + "B"
}

// ParseBytes reads a size such as 8MiB.
func ParseBytes(text string) (Bytes, error) {
	digits := strings.TrimRight(text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
	n, err := strconv.ParseInt(digits, 10, 64)
	if err != nil || n < 0 {
		return 0, &Error{Why: fmt.Sprintf("%q is not a size", text), Remedy: "write a whole number and its unit, such as 8MiB"}
	}
	unit := text[len(digits):]
	if unit == "" {
		return 0, &Error{Why: fmt.Sprintf("%q has no unit", text), Remedy: fmt.Sprintf("write %sB, %sKiB or %sMiB", digits, digits, digits)}
	}
	for _, u := range byteUnits {
		if u.name != unit {
			continue
		}
		if n > int64(1<<62/u.size) {
			return 0, &Error{Why: fmt.Sprintf("%q is too large", text), Remedy: "sizes end at 4194304TiB"}
		}
		return Bytes(n) * u.size, nil
	}
	return 0, &Error{Why: fmt.Sprintf("%q has an unknown unit", text), Remedy: "units are B, KiB, MiB, GiB and TiB"}
}

func parseDuration(text string) (time.Duration, error) {
	d, err := time.ParseDuration(text)
	if err == nil && (d != 0 || text != "0") && d >= 0 {
		return d, nil
	}
	if _, err := strconv.ParseFloat(text, 64); err == nil && !strings.HasPrefix(text, "-") {
		return 0, &Error{Why: fmt.Sprintf("%q has no unit", text), Remedy: fmt.Sprintf("write %sms or %ss", text, text)}
	}
	return 0, &Error{Why: fmt.Sprintf("%q is not a duration", text), Remedy: "write a number and its unit, such as 250ms, 3s or 24h"}
}

// parse sets the field that p points to from text.
func parse(p any, text string) error {
	switch p := p.(type) {
	case *string:
		*p = text
	case *[]string:
		*p = splitList(text)
	case *bool:
		if text != "true" && text != "false" {
			return &Error{Why: fmt.Sprintf("%q is neither true nor false", text), Remedy: "write true or false"}
		}
		*p = text == "true"
	case *int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return &Error{Why: fmt.Sprintf("%q is not a whole number", text), Remedy: "write digits only, without a unit"}
		}
		*p = n
	case *Bytes:
		b, err := ParseBytes(text)
		if err != nil {
			return err
		}
		*p = b
	case *time.Duration:
		d, err := parseDuration(text)
		if err != nil {
			return err
		}
		*p = d
	default:
		panic(fmt.Sprintf("settings: no parser for %T", p))
	}
	return nil
}

func splitList(text string) []string {
	var out []string
	for item := range strings.SplitSeq(text, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}

// number returns the field's value for comparison with limits.
func number(p any) (int64, bool) {
	switch p := p.(type) {
	case *int:
		return int64(*p), true
	case *Bytes:
		return int64(*p), true
	case *time.Duration:
		return int64(*p), true
	}
	return 0, false
}

// format writes the field's value as it would be given.
func format(p any) string {
	switch p := p.(type) {
	case *string:
		return *p
	case *[]string:
		return strings.Join(*p, ",")
	case *bool:
		return strconv.FormatBool(*p)
	case *int:
		return strconv.Itoa(*p)
	case *Bytes:
		return p.String()
	case *time.Duration:
		return formatDuration(*p)
	}
	panic(fmt.Sprintf("settings: no format for %T", p))
}

// formatDuration writes 24h rather than 24h0m0s.
func formatDuration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// kind names the form of the value, for people.
func kind(p any) string {
	switch p.(type) {
	case *[]string:
		return "list"
	case *bool:
		return "true|false"
	case *int:
		return "number"
	case *Bytes:
		return "size"
	case *time.Duration:
		return "duration"
	}
	return "text"
}

// set parses text into the row's field and checks the row's own limits. Errors carry no
// name: the caller knows where the text came from.
func (row *Setting) set(s *Settings, text string) error {
	p := row.field(s)
	if err := parse(p, text); err != nil {
		return err
	}
	if len(row.Choices) > 0 && !slices.Contains(row.Choices, text) {
		return &Error{Why: fmt.Sprintf("%q is not one of its values", text), Remedy: "write " + strings.Join(row.Choices, ", ")}
	}
	n, ok := number(p)
	if !ok {
		return nil
	}
	if least := row.limit(row.Min); row.Min != "" && n < least {
		return &Error{Why: fmt.Sprintf("%s is too small", text), Remedy: "at least " + row.Min}
	}
	if most := row.limit(row.Max); row.Max != "" && n > most {
		return &Error{Why: fmt.Sprintf("%s is too large", text), Remedy: "at most " + row.Max}
	}
	return nil
}

// limit reads a limit of the table, which is written as a value would be.
func (row *Setting) limit(text string) int64 {
	if text == "" {
		return 0
	}
	var scratch Settings
	p := row.field(&scratch)
	if err := parse(p, text); err != nil {
		panic(fmt.Sprintf("settings: limit of %s: %v", row.Name, err))
	}
	n, _ := number(p)
	return n
}
