package settings

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Render writes the table to w as "text", "json" or "markdown".
func Render(w io.Writer, form string) error {
	switch form {
	case "json":
		return renderJSON(w)
	case "markdown":
		return renderMarkdown(w)
	case "text":
		return renderText(w)
	}
	return fmt.Errorf("render settings: form %q is not known", form)
}

func renderText(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', 0)
	group := ""
	for i := range table {
		row := &table[i]
		if row.Group != group {
			fmt.Fprintf(tw, "%s\n", row.Group)
			group = row.Group
		}
		fmt.Fprintf(tw, "  --%s\t%s\t%s\t%s\n", row.Name, row.Kind(), orNone(row.Default), row.Meaning)
	}
	fmt.Fprintf(tw, "\nEvery flag has an environment variable (--flush-size: FLOE_FLUSH_SIZE) and a key in the YAML file\n"+
		"(flush-size: 8MiB). A flag wins over the variable, the variable over the file.\n")
	return tw.Flush()
}

func orNone(text string) string {
	if text == "" {
		return "-"
	}
	return text
}

func (row *Setting) commandNames() []string {
	var names []string
	for _, c := range []Command{Dev, Agent, Inspect} {
		if row.Commands&c != 0 {
			names = append(names, c.String())
		}
	}
	return names
}

func renderJSON(w io.Writer) error {
	type jsonRow struct {
		Name     string   `json:"name"`
		Group    string   `json:"group"`
		Flag     string   `json:"flag"`
		Env      string   `json:"env"`
		Kind     string   `json:"kind"`
		Default  string   `json:"default"`
		Min      string   `json:"min,omitempty"`
		Max      string   `json:"max,omitempty"`
		Choices  []string `json:"choices,omitempty"`
		Commands []string `json:"commands"`
		Meaning  string   `json:"meaning"`
		Why      string   `json:"why"`
	}
	rows := make([]jsonRow, 0, len(table))
	for i := range table {
		r := &table[i]
		rows = append(rows, jsonRow{r.Name, r.Group, r.Flag(), r.Env(), r.Kind(), r.Default, r.Min, r.Max, r.Choices, r.commandNames(), r.Meaning, r.Why})
	}
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	enc.SetEscapeHTML(false)
	return enc.Encode(rows)
}

const markdownHead = `# Configuration

<!-- Generated from cmd/floe/settings/table.go by: make docs. Do not edit. -->

Every setting is a flag (` + "`--flush-size 8MiB`" + `), an environment variable (` + "`FLOE_FLUSH_SIZE=8MiB`" + `) and a key
in the YAML file that ` + "`--config`" + ` or ` + "`FLOE_CONFIG`" + ` names (` + "`flush-size: 8MiB`" + `). A flag wins over the variable, the
variable over the file, the file over the default.

Sizes need a unit (B, KiB, MiB, GiB, TiB), and so do durations (ms, s, m, h). Everything is checked at start: an
unknown key or ` + "`FLOE_`" + ` variable, a missing unit or two settings that do not fit together end the start with one line
that names the setting and the remedy, and exit code 2. Variables that Kubernetes derives from a Service named
floe (` + "`FLOE_PORT_…`, `FLOE_SERVICE_…`" + `) are left alone.

Credentials are no settings: the store's come from the environment that its driver reads.
`

func renderMarkdown(w io.Writer) error {
	var b strings.Builder
	b.WriteString(markdownHead)
	group := ""
	for i := range table {
		row := &table[i]
		if row.Group != group {
			group = row.Group
			fmt.Fprintf(&b, "\n## %s\n", group)
		}
		fmt.Fprintf(&b, "\n### %s\n\n%s.\n\n", row.Name, strings.ToUpper(row.Meaning[:1])+row.Meaning[1:])
		fmt.Fprintf(&b, "- Default: %s%s\n", code(row.Default), row.limits())
		fmt.Fprintf(&b, "- Flag `%s`, variable `%s`; read by %s\n", row.Flag(), row.Env(), strings.Join(row.commandNames(), ", "))
		fmt.Fprintf(&b, "- %s\n", row.Why)
	}
	_, err := io.WriteString(w, b.String())
	return err
}

func code(text string) string {
	if text == "" {
		return "none"
	}
	return "`" + text + "`"
}

func (row *Setting) limits() string {
	switch {
	case len(row.Choices) > 0:
		return " (one of " + strings.Join(row.Choices, ", ") + ")"
	case row.Min != "" && row.Max != "":
		return fmt.Sprintf(" (%s, from %s to %s)", row.Kind(), row.Min, row.Max)
	}
	return " (" + row.Kind() + ")"
}
