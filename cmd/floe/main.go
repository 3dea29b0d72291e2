// Command floe is a serverless, tiered log that speaks the Kafka protocol.
//
// This package turns the command line into settings, builds the components that they ask
// for and hands them to an agent; no rule of the log itself lives here. Errors leave as
// one line on standard error, `floe: what: why (remedy)`, with exit code 2 where the
// command line or a setting is wrong and 1 for everything else.
package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/floelog/floe/cmd/floe/planted"
	"github.com/floelog/floe/cmd/floe/settings"
)

const (
	exitOK      = 0
	exitRuntime = 1 // something failed
	exitUsage   = 2 // the command line or a setting is wrong
)

func main() {
	environ, plant := planted.Choose(os.Environ())
	os.Exit(run(process{
		args:    os.Args[1:],
		environ: environ,
		plant:   plant,
		stdout:  os.Stdout,
		stderr:  os.Stderr,
		newNode: newNode,
	}))
}

// process is what the program takes from the operating system.
type process struct {
	args    []string
	environ []string
	stdout  io.Writer
	stderr  io.Writer
	plant   planted.Plant
	newNode func(*settings.Settings, identity, parts) (node, error)
}

// usageError marks an error of the command line, apart from those of settings.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// exitError ends the program with a code of its own.
type exitError struct {
	code int
	error
}

func (e exitError) Unwrap() error { return e.error }

// run executes one command line and returns the exit code.
func run(p process) int {
	root := rootCommand(p)
	root.SetArgs(p.args)
	root.SetOut(p.stdout)
	root.SetErr(p.stderr)
	err := root.Execute()
	if err == nil {
		return exitOK
	}
	fmt.Fprintf(p.stderr, "floe: %s\n", oneLine(err))
	var exit exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	var setting *settings.Error
	var usage usageError
	if errors.As(err, &setting) || errors.As(err, &usage) {
		return exitUsage
	}
	return exitRuntime
}

// oneLine joins an error's lines: several libraries put advice on lines of their own.
func oneLine(err error) string {
	return strings.Join(strings.FieldsFunc(err.Error(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}

func rootCommand(p process) *cobra.Command {
	root := &cobra.Command{
		Use:   "floe",
		Short: "A serverless, tiered log that speaks the Kafka protocol",
		Long: "Floe is a serverless, tiered log that speaks the Kafka protocol.\n" +
			"Records live in object storage, leadership, commits and offsets in etcd; agents own nothing.",
		Example:       "  floe dev                                        everything in one process, data in ./floe-data\n  kcat -b 127.0.0.1:9092 -t events -P <<< hello    produce\n  kcat -b 127.0.0.1:9092 -t events -C -e           consume",
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return cmd.Help()
		},
	}
	root.CompletionOptions.HiddenDefaultCmd = true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return usageError{fmt.Errorf("%w (%s --help lists the flags)", err, cmd.CommandPath())}
	})
	root.AddCommand(devCommand(p), agentCommand(p), groupCommand(p), txnCommand(p), costCommand(p), doctorCommand(p), inspectCommand(p), fsckCommand(p), gcCommand(p), recoverCommand(p), settingsCommand(p), versionCommand(p))
	return root
}

// noArgs refuses arguments beside flags.
func noArgs(cmd *cobra.Command, args []string) error {
	if len(args) == 0 {
		return nil
	}
	if cmd.HasSubCommands() {
		return usageError{fmt.Errorf("%s: no such command (%s --help lists them)", args[0], cmd.CommandPath())}
	}
	return usageError{fmt.Errorf("%s: unexpected argument (%s --help lists the flags)", args[0], cmd.CommandPath())}
}

// exactArgs demands the named arguments.
func exactArgs(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) != len(names) {
			return usageError{fmt.Errorf("%s: wants %s, got %d arguments (%s --help tells more)",
				cmd.CommandPath(), strings.Join(names, " "), len(args), cmd.CommandPath())}
		}
		return nil
	}
}

func settingsCommand(p process) *cobra.Command {
	var asJSON, asMarkdown bool
	cmd := &cobra.Command{
		Use:   "settings",
		Short: "List every setting: flag, default, meaning",
		Args:  noArgs,
		RunE: func(*cobra.Command, []string) error {
			form := "text"
			switch {
			case asJSON && asMarkdown:
				return usageError{errors.New("--json: does not go with --markdown (give one of them)")}
			case asJSON:
				form = "json"
			case asMarkdown:
				form = "markdown"
			}
			return settings.Render(p.stdout, form)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "as JSON, with limits and reasons")
	cmd.Flags().BoolVar(&asMarkdown, "markdown", false, "as the page docs/configuration.md")
	return cmd
}
