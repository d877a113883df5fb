package curl

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"
)

// Exit codes, numbered as curl(1) lists them.
const (
	exitOK          = 0
	exitProtocol    = 1
	exitUsage       = 2
	exitURL         = 3
	exitResolve     = 6
	exitConnect     = 7
	exitWeirdReply  = 8
	exitHTTP2       = 16
	exitPartial     = 18
	exitHTTP        = 22
	exitWrite       = 23
	exitRead        = 26
	exitTimeout     = 28
	exitRange       = 33
	exitTLS         = 35
	exitRedirects   = 47
	exitEmpty       = 52
	exitSend        = 55
	exitRecv        = 56
	exitClientCert  = 58
	exitCertificate = 60
	exitEncoding    = 61
	exitRewind      = 65
	exitCAFile      = 77
	exitHTTP2Stream = 92
	exitInterrupted = 130 // a shell's code for SIGINT
)

// An exitError ends a transfer, or the program, with a code and a message.
type exitError struct {
	code int
	msg  string
}

func (e *exitError) Error() string { return e.msg }

func fail(code int, format string, args ...any) *exitError {
	return &exitError{code, fmt.Sprintf(format, args...)}
}

// reason is what strerror would say of err, or its own words.
func reason(err error) string {
	var errno syscall.Errno
	s := err.Error()
	if errors.As(err, &errno) {
		s = errno.Error()
	}
	r, n := utf8.DecodeRuneInString(s)
	return string(unicode.ToUpper(r)) + s[n:]
}

// stopped explains the end of a transfer by its time limit or by an interrupt, or
// returns nil.
func (t *transfer) stopped() *exitError {
	if t.ctx.Err() == nil {
		return nil
	}
	cause := context.Cause(t.ctx)
	var e *exitError
	if errors.As(cause, &e) { // --speed-limit
		return e
	}
	if !errors.Is(cause, errMaxTime) {
		return &exitError{exitInterrupted, ""}
	}
	ms := t.sinceStart().Milliseconds()
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.phase == phaseResolve:
		return fail(exitTimeout, "Resolving timed out after %d milliseconds", ms)
	case t.phase == phaseConnect:
		return fail(exitTimeout, "Connection timed out after %d milliseconds", ms)
	case t.phase == phaseTLS:
		return fail(exitTimeout, "SSL connection timeout")
	case t.expect >= 0:
		return fail(exitTimeout, "Operation timed out after %d milliseconds with %d out of %d bytes received", ms, t.received, t.expect)
	}
	return fail(exitTimeout, "Operation timed out after %d milliseconds with %d bytes received", ms, t.received)
}

// headError explains why no response head came.
func (t *transfer) headError(err error) *exitError {
	var e *exitError
	if errors.As(err, &e) {
		return e
	}
	if e := t.stopped(); e != nil {
		return e
	}
	if re := t.readError(); re != nil {
		return fail(exitRead, "Reading the data to send: %v", re)
	}
	if e := http2Error(err); e != nil {
		return e
	}
	c := t.connState()
	switch {
	case c.writeErr != nil && !c.headDone:
		return fail(exitSend, "Send failure: %s", reason(c.writeErr))
	case c.readErr != nil && !errors.Is(c.readErr, io.EOF) && !c.headDone:
		return recvError(c.readErr)
	case errors.Is(c.readErr, io.EOF) && c.received == 0:
		return fail(exitEmpty, "Empty reply from server")
	case errors.Is(c.readErr, io.EOF) && !c.headDone:
		return fail(exitRecv, "Recv failure: the connection closed inside the response headers")
	case strings.Contains(err.Error(), "response headers exceeded"):
		return fail(exitRecv, "Too large response headers: more than %d bytes", maxHead)
	case c.received > 0 && !c.looksHTTP:
		return fail(exitProtocol, "Received HTTP/0.9 when not allowed")
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return recvError(err)
	}
	return fail(exitWeirdReply, "Weird server reply: %v", trimHTTP(err))
}

// bodyError explains why a response body ended early.
func (t *transfer) bodyError(err error, chunked bool) *exitError {
	var e *exitError
	if errors.As(err, &e) {
		return e
	}
	if e := t.stopped(); e != nil {
		return e
	}
	if e := http2Error(err); e != nil {
		return e
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return recvError(err)
	}
	c := t.connState()
	if c.readErr != nil && !errors.Is(c.readErr, io.EOF) && !errors.Is(c.readErr, net.ErrClosed) {
		return recvError(c.readErr)
	}
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		t.mu.Lock()
		defer t.mu.Unlock()
		switch {
		case t.expect >= 0:
			return fail(exitPartial, "transfer closed with %d bytes remaining to read", t.expect-t.received)
		case chunked:
			return fail(exitPartial, "transfer closed with outstanding read data remaining")
		}
	}
	return fail(exitRecv, "Recv failure: %v", trimHTTP(err))
}

func recvError(err error) *exitError {
	if errors.Is(err, io.ErrUnexpectedEOF) {
		return fail(exitRecv, "Recv failure: the TLS connection ended without a close_notify alert")
	}
	return fail(exitRecv, "Recv failure: %s", reason(err))
}

// http2StreamError has the fields of golang.org/x/net/http2.StreamError, which
// is what net/http's own copy lets errors.As fill.
type http2StreamError struct {
	StreamID uint32
	Code     http2Code
	Cause    error
}

func (e http2StreamError) Error() string { return "stream error" }

type http2Code uint32

func http2Error(err error) *exitError {
	var se http2StreamError
	if errors.As(err, &se) {
		return fail(exitHTTP2Stream, "HTTP/2 stream %d was not closed cleanly: error %d", se.StreamID, se.Code)
	}
	if strings.HasPrefix(err.Error(), "http2: server sent GOAWAY") {
		return fail(exitHTTP2, "HTTP/2: %s", strings.TrimPrefix(err.Error(), "http2: "))
	}
	return nil
}

// tlsError explains a handshake that did not succeed.
func tlsError(host string, err error) *exitError {
	var (
		verify  *tls.CertificateVerificationError
		name    x509.HostnameError
		invalid x509.CertificateInvalidError
		unknown x509.UnknownAuthorityError
	)
	switch {
	case errors.As(err, &name):
		return fail(exitCertificate, "SSL: no alternative certificate subject name matches target host name '%s'\nThe certificate is another host's; -k accepts it all the same.", host)
	case errors.As(err, &unknown):
		return fail(exitCertificate, "SSL certificate problem: unable to get local issuer certificate (%v)\n--cacert FILE names the authority to trust; -k trusts anyone.", unknown)
	case errors.As(err, &invalid):
		return fail(exitCertificate, "SSL certificate problem: %v\n-k accepts it all the same.", invalid)
	case errors.As(err, &verify):
		return fail(exitCertificate, "SSL certificate problem: %v", verify.Err)
	case errors.Is(err, io.EOF):
		return fail(exitTLS, "TLS connect error: the server closed the connection during the handshake (host %s)", host)
	}
	return fail(exitTLS, "TLS connect error: %s", reason(err))
}

func trimHTTP(err error) string {
	s := err.Error()
	for _, p := range []string{"net/http: ", "http: ", "HTTP/1.x transport connection broken: "} {
		s = strings.TrimPrefix(s, p)
	}
	return s
}
