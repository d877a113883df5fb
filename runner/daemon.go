package runner

import (
	"context"
	"errors"
	"os"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/ustack/ustack/control"
	"golang.org/x/sys/unix"
)

// A daemon is the connection to the daemon whose stack the program uses. One that went
// away is looked for again at the next need. The supervisor's loop reads its replies.
type daemon struct {
	client control.Client
	// news is an eventfd that is readable when there is another session.
	news int

	current atomic.Pointer[control.Session]
	mu      sync.Mutex // held while a session is opened in the place of one that is over
}

func newDaemon(path string) (*daemon, error) {
	news, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, os.NewSyscallError("eventfd", err)
	}
	return &daemon{client: control.Client{Path: path}, news: news}, nil
}

// open returns why there is no session.
func (d *daemon) open(ctx context.Context) error {
	_, err := d.get(ctx)
	return err
}

// live is the session, if it is there already.
func (d *daemon) live() *control.Session {
	if s := d.current.Load(); s != nil && s.Err() == nil {
		return s
	}
	return nil
}

func (d *daemon) get(ctx context.Context) (*control.Session, error) {
	if s := d.live(); s != nil {
		return s, nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if s := d.live(); s != nil {
		return s, nil
	}
	s, err := d.client.OpenPolledSession(ctx)
	if err != nil {
		return nil, err
	}
	if old := d.current.Swap(s); old != nil {
		old.Close()
	}
	_, _ = unix.Write(d.news, hostOrder.AppendUint64(nil, 1))
	return s, nil
}

// call sends a request that makes a flow. It closes fd in any case.
func (d *daemon) call(ctx context.Context, r control.Request, fd int) (control.Reply, *control.Session, error) {
	s, err := d.get(ctx)
	if err != nil {
		if fd >= 0 {
			unix.Close(fd)
		}
		return control.Reply{}, nil, err
	}
	rep, err := s.Call(ctx, r, fd)
	return rep, s, err
}

func (d *daemon) close() {
	if s := d.current.Load(); s != nil {
		s.Close()
	}
	d.client.Close()
	unix.Close(d.news)
}

// errnoOf is the errno that the program gets for an error of the daemon or of the way
// to it.
func errnoOf(err error) syscall.Errno {
	var gone *control.DaemonError
	var errno syscall.Errno
	switch {
	case err == nil:
		return 0
	case errors.As(err, &gone):
		return unix.ENETDOWN
	case errors.Is(err, context.DeadlineExceeded):
		return unix.ETIMEDOUT
	case errors.Is(err, context.Canceled):
		return unix.ECANCELED
	case errors.As(err, &errno):
		return errno
	}
	return unix.EIO
}
