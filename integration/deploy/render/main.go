// Command render writes deploy/kubernetes/floe.yaml from the Helm chart. Its argument is the
// root of the repository.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/floelog/floe/integration/deploy"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "render:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) != 1 {
		return fmt.Errorf("give the root of the repository")
	}
	content, err := deploy.RenderManifests(args[0])
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(args[0], deploy.Manifests), content, 0o644)
}
