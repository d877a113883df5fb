package runner

import (
	"errors"
	"os"
	"syscall"
)

// Config says what to run, and on which stack.
type Config struct {
	// Socket is the path of the daemon's control socket.
	Socket string
	// Path is the program's file; Args is its argument list, the name first.
	Path string
	Args []string
	// Env is its environment and Dir its directory; nil and "" are this process's own.
	Env []string
	Dir string
	// Stdin, Stdout and Stderr are its standard streams; nil are this process's own.
	Stdin, Stdout, Stderr *os.File
	// ShareNet leaves it in this process's network namespace. Without the privilege to mount
	// it then also looks up names where this host does.
	ShareNet bool
	// Verbose tells on Stderr of every call that is not emulated, and at the end how often each
	// call was passed to the supervisor.
	Verbose bool
	// Warn is told, in one line, what the user should know of; nil discards it.
	Warn func(text string)
}

func (c *Config) warn(text string) {
	if c.Warn != nil {
		c.Warn(text)
	}
}

// ErrNotSupported is what errors.Is finds when this kernel or architecture cannot
// pass calls to a supervisor.
var ErrNotSupported = errors.New("running programs on the stack is not supported here")

// A Status is how a program ended.
type Status struct{ syscall.WaitStatus }
