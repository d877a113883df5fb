package runner

import (
	"errors"
	"os"
	"strconv"
	"syscall"
)

// supervisorName is argument 0 of the stage that Run starts, so that the program's environment
// stays as it is.
const supervisorName = "ustack-run-supervisor"

// Stage runs the stage that Run started this process for, and does not return then.
// Every program that calls Run calls Stage first of all.
func Stage() {
	if len(os.Args) == 0 || os.Args[0] != supervisorName {
		return
	}
	o, err := parseOrder(os.Args)
	if err != nil {
		os.Exit(1)
	}
	os.Exit(supervisorMain(o))
}

// An order says what a supervisor is to launch.
type order struct {
	// FD is the descriptor of the supervisor's end of the socket to the front. No other that it
	// inherits has this number.
	FD int
	// Group is the process group of the program.
	Group int
	// Ignore are the signals that the program ignores, signal n as bit n-1.
	Ignore uint64
	// Drop gives up all capabilities before the program begins.
	Drop bool
	// Net says that the network namespace is the program's own.
	Net bool
	// Path is the program's file, Args its argument list.
	Path string
	Args []string
}

const fixedArgs = 7 // before Args

// argv is the argument list with which an executable becomes the supervisor.
func (o order) argv() []string {
	return append([]string{
		supervisorName, strconv.Itoa(o.FD), strconv.Itoa(o.Group), strconv.FormatUint(o.Ignore, 16), strconv.FormatBool(o.Drop), strconv.FormatBool(o.Net), o.Path,
	}, o.Args...)
}

func parseOrder(argv []string) (o order, err error) {
	if len(argv) < fixedArgs {
		return o, syscall.EINVAL
	}
	var errs [5]error
	o.FD, errs[0] = strconv.Atoi(argv[1])
	o.Group, errs[1] = strconv.Atoi(argv[2])
	o.Ignore, errs[2] = strconv.ParseUint(argv[3], 16, 64)
	o.Drop, errs[3] = strconv.ParseBool(argv[4])
	o.Net, errs[4] = strconv.ParseBool(argv[5])
	o.Path, o.Args = argv[6], argv[fixedArgs:]
	return o, errors.Join(errs[:]...)
}
