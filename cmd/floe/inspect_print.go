package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strings"
	"unicode"
)

// fields is an object whose fields keep their order.
type fields []field

type field struct {
	name  string
	value any // fields, []any, or something that prints and encodes by itself
}

// MarshalJSON writes the fields as a JSON object, in order.
func (f fields) MarshalJSON() ([]byte, error) {
	var b bytes.Buffer
	b.WriteByte('{')
	for i, x := range f {
		if i > 0 {
			b.WriteByte(',')
		}
		name, err := json.Marshal(x.name)
		if err != nil {
			return nil, err
		}
		value, err := json.Marshal(x.value)
		if err != nil {
			return nil, err
		}
		b.Write(name)
		b.WriteByte(':')
		b.Write(value)
	}
	b.WriteByte('}')
	return b.Bytes(), nil
}

// stored is record batches or the like: people see how many bytes, machines get them.
type stored []byte

func (s stored) String() string { return fmt.Sprintf("%d bytes", len(s)) }

// MarshalJSON writes the bytes in base64.
func (s stored) MarshalJSON() ([]byte, error) {
	return json.Marshal(base64.StdEncoding.EncodeToString(s))
}

// plain turns a value of Floe's own types into a tree of fields, lists and leaves: what
// has a name of its own (ids, keys) is written by that name, exported fields by theirs.
// It follows the types, so that a kind of change that is added tomorrow is printed too.
func plain(x any) any { return plainValue(reflect.ValueOf(x)) }

func plainValue(v reflect.Value) any {
	if !v.IsValid() {
		return nil
	}
	if s, ok := v.Interface().(fmt.Stringer); ok && v.Kind() != reflect.Pointer {
		return s.String()
	}
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if v.IsNil() {
			return nil
		}
		return plainValue(v.Elem())
	case reflect.Struct:
		var out fields
		for i := range v.NumField() {
			if f := v.Type().Field(i); f.IsExported() {
				out = append(out, field{camel(f.Name), plainValue(v.Field(i))})
			}
		}
		return out
	case reflect.Slice, reflect.Array:
		if v.Type().Elem().Kind() == reflect.Uint8 {
			b := make([]byte, v.Len())
			reflect.Copy(reflect.ValueOf(b), v)
			return stored(b)
		}
		out := make([]any, 0, v.Len())
		for i := range v.Len() {
			out = append(out, plainValue(v.Index(i)))
		}
		return out
	}
	return v.Interface()
}

// camel writes LogStart as logStart and ID as id.
func camel(name string) string {
	r := []rune(name)
	for i := range r {
		if i > 0 && i+1 < len(r) && unicode.IsLower(r[i+1]) || !unicode.IsUpper(r[i]) {
			break
		}
		r[i] = unicode.ToLower(r[i])
	}
	return string(r)
}

// maxLineWidth is how long an object may become on one line before each of its fields
// takes its own.
const maxLineWidth = 110

// printTree writes a tree for people: what fits on a line is on a line.
func printTree(w io.Writer, tree any) error {
	var b strings.Builder
	printNode(&b, tree, "")
	_, err := io.WriteString(w, b.String())
	return err
}

func printNode(b *strings.Builder, node any, indent string) {
	switch n := node.(type) {
	case fields:
		for _, f := range n {
			if line, ok := oneLiner(f.value); ok && len(indent)+len(f.name)+len(line) < maxLineWidth {
				fmt.Fprintf(b, "%s%-*s %s\n", indent, n.width(), f.name, line)
				continue
			}
			fmt.Fprintf(b, "%s%s\n", indent, f.name)
			printNode(b, f.value, indent+"  ")
		}
	case []any:
		for _, item := range n {
			if line, ok := oneLiner(item); ok && len(indent)+len(line) < maxLineWidth {
				fmt.Fprintf(b, "%s- %s\n", indent, line)
				continue
			}
			fmt.Fprintf(b, "%s-\n", indent)
			printNode(b, item, indent+"  ")
		}
	default:
		fmt.Fprintf(b, "%s%v\n", indent, n)
	}
}

// width is the width of the column of names.
func (f fields) width() int {
	w := 0
	for _, x := range f {
		w = max(w, min(len(x.name), 16))
	}
	return w
}

// oneLiner writes a node without line breaks; false where it holds a list of objects.
func oneLiner(node any) (string, bool) {
	switch n := node.(type) {
	case fields:
		var words []string
		for _, f := range n {
			s, ok := oneLiner(f.value)
			if !ok {
				return "", false
			}
			words = append(words, f.name+" "+s)
		}
		return strings.Join(words, "  "), true
	case []any:
		var words []string
		for _, item := range n {
			if _, object := item.(fields); object {
				return "", false
			}
			s, ok := oneLiner(item)
			if !ok {
				return "", false
			}
			words = append(words, s)
		}
		return "[" + strings.Join(words, " ") + "]", true
	case nil:
		return "-", true
	case string:
		if n == "" {
			return "-", true
		}
	}
	return fmt.Sprint(node), true
}
