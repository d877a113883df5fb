package curl

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// A sink is where a transfer's output goes: standard output, or a file that is
// made when the first byte comes.
type sink struct {
	path   string // empty: standard output
	w      io.Writer
	f      *os.File
	guard  bool  // standard output is a terminal and takes no binary
	offset int64 // where -C continues
	append bool
	dirs   bool // --create-dirs
}

func newSink(t *transfer, u *url.URL) (*sink, error) {
	c, tg := t.c, t.tg
	s := &sink{dirs: c.createDirs}
	switch {
	case tg.remote:
		name, err := remoteName(u)
		if err != nil {
			return nil, err
		}
		s.path = name
	case tg.hasOut && tg.out != "-":
		s.path = tg.out
	default:
		s.w = t.s.env.Stdout
		s.guard = t.s.env.StdoutTerminal && !tg.hasOut
	}
	if s.path != "" && c.outputDir != "" {
		s.path = filepath.Join(c.outputDir, s.path)
	}
	if c.resume {
		s.offset = c.resumeAt
		if s.offset < 0 {
			s.offset = 0
			if fi, err := os.Stat(s.path); err == nil && s.path != "" {
				s.offset = fi.Size()
			}
		}
		s.append = s.offset > 0
	}
	return s, nil
}

func (s *sink) open() error {
	if s.w != nil {
		return nil
	}
	if s.dirs {
		if err := os.MkdirAll(filepath.Dir(s.path), 0o750); err != nil {
			return fail(exitWrite, "Failed to create the directory of %q: %s", s.path, reason(err))
		}
	}
	mode := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if s.append {
		mode = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	f, err := os.OpenFile(s.path, mode, 0o666)
	if err != nil {
		return fail(exitWrite, "Failed to open the file %q: %s", s.path, reason(err))
	}
	s.f, s.w = f, f
	return nil
}

func (s *sink) write(b []byte) error {
	if err := s.open(); err != nil {
		return err
	}
	if _, err := s.w.Write(b); err != nil {
		return fail(exitWrite, "Failure writing output to destination: %s", reason(err))
	}
	return nil
}

// body writes a piece of the response's body.
func (s *sink) body(b []byte) error {
	if s.guard {
		s.guard = false // as libcurl, only the beginning is looked at
		if bytes.IndexByte(b[:min(len(b), 2000)], 0) >= 0 {
			return fail(exitWrite, "Binary output can mess up your terminal: -o - writes it all the same, -o FILE keeps it in a file")
		}
	}
	return s.write(b)
}

// close ends the file: --remote-time and --remove-on-error are done here.
func (s *sink) close(t *transfer, ok bool) error {
	if s.path == "" {
		return nil
	}
	if s.f == nil && ok && t.method != http.MethodHead && !t.c.head {
		if err := s.open(); err != nil {
			return err
		}
	}
	if s.f == nil {
		return nil
	}
	if err := s.f.Close(); err != nil {
		return fail(exitWrite, "Failure writing %q: %s", s.path, reason(err))
	}
	if !ok && t.c.removeErr {
		if err := os.Remove(s.path); err != nil {
			t.s.warn("Removing %q: %s", s.path, reason(err))
		}
		return nil
	}
	if t.c.remoteTime && t.resp != nil {
		if at, err := http.ParseTime(t.resp.Header.Get("Last-Modified")); err == nil {
			if err := os.Chtimes(s.path, time.Time{}, at); err != nil {
				t.s.warn("Setting the time of %q: %s", s.path, reason(err))
			}
		}
	}
	return nil
}

// dumpHeader appends to --dump-header's file, which begins empty.
func (s *session) dumpHeader(b []byte) error {
	if s.c.dumpHeader == "" {
		return nil
	}
	if s.c.dumpHeader == "-" {
		if _, err := s.env.Stdout.Write(b); err != nil {
			return fail(exitWrite, "Failure writing headers: %s", reason(err))
		}
		return nil
	}
	mode := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if s.dumped {
		mode = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	s.dumped = true
	f, err := os.OpenFile(s.c.dumpHeader, mode, 0o666)
	if err != nil {
		return fail(exitWrite, "Failed to open the file %q: %s", s.c.dumpHeader, reason(err))
	}
	_, err = f.Write(b)
	if cerr := f.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fail(exitWrite, "Failure writing %q: %s", s.c.dumpHeader, reason(err))
	}
	return nil
}

// report prints the error of a finished transfer, and what -w asks for.
func (s *session) report(r result) {
	if r.code != exitOK && r.msg != "" && (!s.c.silent || s.c.showError) {
		fmt.Fprintf(s.env.Stderr, "curl: (%d) %s\n", r.code, r.msg)
	}
	if s.c.writeOut != "" && r.code != exitInterrupted {
		s.writeOut(&r)
	}
}
