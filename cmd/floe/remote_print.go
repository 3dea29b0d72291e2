package main

import (
	"encoding/json"
	"fmt"
	"io"
	"reflect"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/twmb/franz-go/pkg/kadm"
)

// print writes what a command found: as JSON for programs, in the shape that
// docs/groups-and-transactions.md describes, or as text for people.
func (r *remote) print(shape any, text func(io.Writer) error) error {
	if !r.asJSON {
		return text(r.out)
	}
	enc := json.NewEncoder(r.out)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(shape)
}

// table is text in aligned columns: numbers to the right, everything else to the left.
type table struct {
	columns []string
	rows    [][]string
	numbers []int // per column: how many cells are numbers
	words   []int // per column: how many are something else
}

func newTable(columns ...string) *table {
	return &table{columns: columns, numbers: make([]int, len(columns)), words: make([]int, len(columns))}
}

// add adds a row: one cell for each column. What is nil or empty is printed as "-".
func (t *table) add(cells ...any) {
	row := make([]string, len(t.columns))
	for i, c := range cells {
		text, number := cell(c)
		row[i] = text
		switch {
		case number:
			t.numbers[i]++
		case text != "-":
			t.words[i]++
		}
	}
	t.rows = append(t.rows, row)
}

// decimal is a number with a fraction, as it is to be printed.
type decimal string

// cell writes one value, and says whether it is a number.
func cell(c any) (text string, number bool) {
	v := reflect.ValueOf(c)
	if v.Kind() == reflect.Pointer {
		if v.IsNil() {
			return "-", false
		}
		return cell(v.Elem().Interface())
	}
	switch c := c.(type) {
	case nil:
		return "-", false
	case string:
		if c == "" {
			return "-", false
		}
		return printable(c), false
	case decimal:
		return string(c), true
	case time.Time:
		return c.UTC().Format(time.RFC3339), false
	case time.Duration:
		return c.Round(time.Second).String(), false
	}
	return fmt.Sprint(c), v.CanInt()
}

// printable keeps what clients call themselves from steering a terminal.
func printable(s string) string {
	if !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return s
	}
	return strconv.Quote(s)
}

// print writes the table, or instead of an empty one what none says.
func (t *table) print(w io.Writer, none string) error {
	if len(t.rows) == 0 {
		_, err := fmt.Fprintln(w, none)
		return err
	}
	lines := append([][]string{t.columns}, t.rows...)
	width := make([]int, len(t.columns))
	for _, line := range lines {
		for i, text := range line {
			width[i] = max(width[i], utf8.RuneCountInString(text))
		}
	}
	var b strings.Builder
	for _, line := range lines {
		var row strings.Builder
		for i, text := range line {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(text))
			if t.numbers[i] > 0 && t.words[i] == 0 {
				text = pad + text
			} else {
				text += pad
			}
			if i > 0 {
				row.WriteString("  ")
			}
			row.WriteString(text)
		}
		b.WriteString(strings.TrimRight(row.String(), " "))
		b.WriteByte('\n')
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// topicPartitions are partitions of a topic, ascending.
type topicPartitions struct {
	Topic      string  `json:"topic"`
	Partitions []int32 `json:"partitions"`
}

func (t topicPartitions) String() string {
	words := make([]string, len(t.Partitions))
	for i, p := range t.Partitions {
		words[i] = strconv.Itoa(int(p))
	}
	return t.Topic + ":" + strings.Join(words, ",")
}

// sorted orders a set by topic and partition; it is never nil, so that JSON has a list.
func sorted(set kadm.TopicsSet) []topicPartitions {
	out := []topicPartitions{}
	for _, t := range set.Sorted() {
		out = append(out, topicPartitions{t.Topic, t.Partitions})
	}
	return out
}

// joined writes partitions as they are given to --topic, and how many they are.
func joined(all []topicPartitions) (text string, count int) {
	words := make([]string, len(all))
	for i, t := range all {
		words[i] = t.String()
		count += len(t.Partitions)
	}
	return strings.Join(words, " "), count
}

// count writes how many there are of something.
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return strconv.Itoa(n) + " " + what + "s"
}

// partition is a partition of a topic.
type partition struct {
	topic string
	id    int32
}

func (p partition) String() string { return fmt.Sprintf("%s:%d", p.topic, p.id) }
