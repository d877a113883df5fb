package runner

import (
	"os"
	"runtime"
)

// Names under which this program starts itself again. They are argument 0, so that the
// environment of the program to run stays as it is.
const (
	supervisorName = "ustack-run-supervisor"
	launcherName   = "ustack-run-launcher"
)

// stageFD is the descriptor by which a stage talks to the one that started it.
const stageFD = 3

// Stage runs the stage that Run started this process for, and does not return then.
// Every program that calls Run calls Stage first of all.
func Stage() {
	if len(os.Args) == 0 {
		return
	}
	switch os.Args[0] {
	case launcherName:
		runtime.LockOSThread()
		os.Exit(launch(os.Args[1:]))
	case supervisorName:
		os.Exit(supervisorMain())
	}
}
