package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/floelog/floe/diagnosis"
)

// printReport writes a report for people.
func printReport(out io.Writer, r *diagnosis.Report) error {
	w := &lines{w: out}
	w.line("cluster %s, %s", r.Cluster, r.At.Format("2006-01-02 15:04:05 MST"))
	w.line("")
	for i, f := range r.Findings {
		if i > 0 {
			w.line("")
		}
		title := f.Title
		if f.Subject != "" {
			title += ": " + f.Subject
		}
		w.line("%-8s  %s  %s", strings.ToUpper(string(f.Severity)), f.Name, title)
		if len(f.Agents) > 0 {
			w.line("          seen by:  %s", nodes(f.Agents))
		}
		w.line("          measured: %s", f.Measured)
		w.line("          why:      %s", f.Why)
		w.line("          do:       %s", f.Advice)
		if change := changes(f); change != "" {
			w.line("          change:   %s", change)
		}
		w.line("          more:     %s", f.Runbook)
	}
	if len(r.Findings) == 0 {
		w.line("nothing was found")
	}
	w.line("")
	if w.err != nil {
		return w.err
	}
	return printExamined(out, r.Agents)
}

// changes names what may be changed.
func changes(f diagnosis.Finding) string {
	out := strings.Join(f.Settings, ", ")
	if len(f.Clients) > 0 {
		if out != "" {
			out += "; "
		}
		out += "clients: " + strings.Join(f.Clients, ", ")
	}
	return out
}

func nodes(ids []int32) string {
	words := make([]string, len(ids))
	for i, id := range ids {
		words[i] = strconv.Itoa(int(id))
	}
	if len(ids) == 1 {
		return "agent " + words[0]
	}
	return "agents " + strings.Join(words, ", ")
}

// printExamined lists the agents.
func printExamined(out io.Writer, agents []diagnosis.Examined) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(agents) > 0 {
		fmt.Fprintln(t, "AGENT\tADDRESS\tZONE\tVERSION\tFINDINGS")
	}
	for _, a := range agents {
		says := strconv.Itoa(len(a.Findings))
		if a.Error != "" {
			says = "? " + a.Error
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\n", a.Node, a.Address, a.Zone, a.Version, says)
	}
	return t.Flush()
}

const doctorIntro = `# What floe doctor finds

` + "`floe doctor` asks one agent, which asks all others, and prints what an operator should know: how bad it is, what was\n" +
	"measured and its bound, why it matters, and what to change. `--json` is for programs. It needs the admin address of any one\n" +
	"agent (`--admin-addr`), or `--etcd` and `--cluster`: then it asks all agents that are registered there. With `--etcd` and `--store` it\n" +
	"tries out the stores from where it runs, too, whether or not an agent answers.\n\n" +
	"| exit code | |\n|---|---|\n| 0 | nothing worse than information |\n| 1 | warnings |\n| 2 | something critical |\n| 3 | nothing could be found out |\n\n" +
	"Every agent looks at itself every ten seconds and exports each row below as the metrics `floe_finding{finding,severity}`, 1 or 0,\n" +
	"and `floe_finding_value{finding}`, the worst reading (bytes, seconds, shares of 1), so that alerts need nothing but these\n" +
	"(`FloeFindingCritical`, `FloeFinding`). Rates are of the last minute, rare events of the last ten. What `--json` prints is served at\n" +
	"`/doctor` of the admin address. Rows that are marked * only the command finds.\n\n" +
	"This page is made from the code (`make docs`).\n"

// doctorPage writes everything that can be found as docs/doctor.md.
func doctorPage(out io.Writer) error {
	w := &lines{w: out}
	w.line("%s", doctorIntro)
	w.line("| finding | severity | what is measured | finding if | change | why |")
	w.line("|---|---|---|---|---|---|")
	for _, k := range diagnosis.Kinds() {
		name := fmt.Sprintf("[`%s`](runbooks.md#%s)", k.Name, strings.ToLower(k.Runbook))
		if k.Outside {
			name += " *"
		}
		than := "above "
		if k.Below {
			than = "below "
		}
		bound := than + k.Unit.Format(k.Bound)
		if k.Unit == diagnosis.Yes {
			bound = "yes"
		}
		var change []string
		for _, s := range k.Settings {
			change = append(change, fmt.Sprintf("[`%s`](configuration.md)", s))
		}
		for _, s := range k.Clients {
			change = append(change, fmt.Sprintf("`%s` of clients", s))
		}
		if len(change) == 0 {
			change = []string{"none: " + k.Advice}
		}
		w.line("| %s | %s | %s | %s | %s | %s |", name, k.Severity, k.Measures, bound, strings.Join(change, ", "), k.Why)
	}
	return w.err
}
