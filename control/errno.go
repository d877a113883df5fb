package control

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// A wireError is an error as the protocol carries it: in the body of an HTTP
// answer and in a flow message.
type wireError struct {
	// Text is one line for a person.
	Text string `json:"error,omitempty"`
	// Errno is the name of the errno a kernel socket would give, such as
	// "ECONNREFUSED"; empty for an error of a name.
	Errno string `json:"errno,omitempty"`
	// DNS is there for an error of a name.
	DNS *wireDNSError `json:"dns,omitempty"`
}

// A wireDNSError holds what a *net.DNSError says.
type wireDNSError struct {
	Text      string `json:"text"`
	Name      string `json:"name"`
	Server    string `json:"server,omitempty"`
	NotFound  bool   `json:"not_found,omitempty"`
	Timeout   bool   `json:"timeout,omitempty"`
	Temporary bool   `json:"temporary,omitempty"`
}

// errnoOf finds the errno that stands for err. A DNS error has none: 0.
func errnoOf(err error) syscall.Errno {
	var errno syscall.Errno
	var dns *net.DNSError
	var timeout interface{ Timeout() bool }
	switch {
	case err == nil || errors.As(err, &dns):
		return 0
	case errors.As(err, &errno):
		return errno
	case errors.Is(err, context.Canceled):
		return syscall.ECANCELED
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, os.ErrDeadlineExceeded),
		errors.As(err, &timeout) && timeout.Timeout():
		return syscall.ETIMEDOUT
	case errors.Is(err, net.ErrClosed), errors.Is(err, io.ErrClosedPipe):
		return syscall.EBADF
	case errors.Is(err, errors.ErrUnsupported):
		return syscall.EOPNOTSUPP
	}
	var parse *net.ParseError
	var addr *net.AddrError
	var network net.UnknownNetworkError
	if errors.As(err, &parse) || errors.As(err, &addr) || errors.As(err, &network) {
		return syscall.EINVAL
	}
	return syscall.EIO
}

// toWire converts an error for sending. The layers of net.OpError are taken off,
// because whoever receives it puts on its own.
func toWire(err error) wireError {
	if err == nil {
		return wireError{}
	}
	for {
		op, ok := err.(*net.OpError)
		if !ok || op.Err == nil {
			break
		}
		err = op.Err
	}
	w := wireError{Text: err.Error()}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		w.DNS = &wireDNSError{
			Text: dns.Err, Name: dns.Name, Server: dns.Server,
			NotFound: dns.IsNotFound, Timeout: dns.IsTimeout, Temporary: dns.IsTemporary,
		}
		return w
	}
	errno := errnoOf(err)
	w.Errno = errnoName(errno)
	var sys *os.SyscallError
	if errors.As(err, &sys) && sys == err {
		w.Text = errno.Error()
	}
	return w
}

// err rebuilds the error on the receiving side, or nil if there is none.
func (w wireError) err() error {
	if w.DNS != nil {
		return &net.DNSError{
			Err: w.DNS.Text, Name: w.DNS.Name, Server: w.DNS.Server,
			IsNotFound: w.DNS.NotFound, IsTimeout: w.DNS.Timeout, IsTemporary: w.DNS.Temporary,
		}
	}
	if w.Text == "" && w.Errno == "" {
		return nil
	}
	errno, ok := errnoNumber(w.Errno)
	if ok && (w.Text == "" || w.Text == errno.Error()) {
		return errno
	}
	if !ok {
		errno = syscall.EIO
	}
	return &remoteError{text: w.Text, errno: errno}
}

// A remoteError is an error that the daemon explained in words of its own.
type remoteError struct {
	text  string
	errno syscall.Errno
}

func (e *remoteError) Error() string {
	if e.text == "" {
		return e.errno.Error()
	}
	return e.text
}
func (e *remoteError) Unwrap() error   { return e.errno }
func (e *remoteError) Timeout() bool   { return e.errno.Timeout() }
func (e *remoteError) Temporary() bool { return e.errno.Temporary() }

// errnoName names an errno; names are the same on every architecture.
func errnoName(e syscall.Errno) string {
	if e == 0 {
		return ""
	}
	if e == syscall.EOPNOTSUPP { // sockets call ENOTSUP that
		return "EOPNOTSUPP"
	}
	if name := unix.ErrnoName(e); name != "" {
		return name
	}
	return "E" + strconv.Itoa(int(e))
}

// maxErrno is the largest errno (include/linux/err.h: MAX_ERRNO).
const maxErrno = 4095

var errnoNumbers = sync.OnceValue(func() map[string]syscall.Errno {
	m := map[string]syscall.Errno{"EOPNOTSUPP": syscall.EOPNOTSUPP, "EWOULDBLOCK": syscall.EWOULDBLOCK}
	for e := syscall.Errno(1); e <= maxErrno; e++ {
		if name := unix.ErrnoName(e); name != "" {
			m[name] = e
		}
	}
	return m
})

// errnoNumber is the reverse of errnoName.
func errnoNumber(name string) (syscall.Errno, bool) {
	e, ok := errnoNumbers()[name]
	return e, ok
}

// httpStatus picks the status that fits an error of a state or change request, or
// of CONNECT.
func httpStatus(err error) int {
	var dns *net.DNSError
	if errors.As(err, &dns) {
		switch {
		case dns.IsNotFound:
			return http.StatusNotFound
		case dns.IsTimeout:
			return http.StatusGatewayTimeout
		}
		return http.StatusBadGateway
	}
	switch errnoOf(err) {
	case syscall.EINVAL, syscall.EAFNOSUPPORT, syscall.EDESTADDRREQ:
		return http.StatusBadRequest
	case syscall.EPERM, syscall.EACCES:
		return http.StatusForbidden
	case syscall.ENOENT, syscall.ESRCH, syscall.ENODEV:
		return http.StatusNotFound
	case syscall.EEXIST, syscall.EADDRINUSE, syscall.EADDRNOTAVAIL:
		return http.StatusConflict
	case syscall.EOPNOTSUPP, syscall.ENOSYS:
		return http.StatusNotImplemented
	case syscall.ETIMEDOUT:
		return http.StatusGatewayTimeout
	case syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.EHOSTUNREACH, syscall.ENETUNREACH,
		syscall.EHOSTDOWN, syscall.ENETDOWN:
		return http.StatusBadGateway
	case syscall.ESHUTDOWN, syscall.ENOBUFS, syscall.ENOMEM, syscall.EMFILE, syscall.ENFILE, syscall.ECANCELED:
		return http.StatusServiceUnavailable
	}
	return http.StatusInternalServerError
}
