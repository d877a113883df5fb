package runner

import (
	"os"

	"github.com/ustack/ustack/runner/launcher"
)

// Stage runs the stage that Run started this process for, and does not return then.
// Every program that calls Run calls Stage first of all.
func Stage() {
	if child, ok := launcher.Started(); ok {
		os.Exit(supervisorMain(child))
	}
}
