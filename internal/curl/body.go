package curl

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"os"
	"strings"
)

// A segment is a piece of a request body: bytes, or a regular file that is read
// when it is sent.
type segment struct {
	data []byte
	path string // a file of size bytes, when not empty
	size int64
}

func bytesSegment(b []byte) segment { return segment{data: b, size: int64(len(b))} }

// fileSegment is for a regular file; anything else is read here and now.
func fileSegment(path string, stdin io.Reader) (segment, error) {
	if path != "-" {
		fi, err := os.Stat(path)
		if err != nil {
			return segment{}, fail(exitRead, "cannot open %q: %s", path, reason(err))
		}
		if fi.Mode().IsRegular() {
			f, err := openFile(path) // now, so that a file without permission is told early
			if err != nil {
				return segment{}, err
			}
			return segment{path: path, size: fi.Size()}, f.Close()
		}
	}
	b, err := readAll(path, stdin)
	return bytesSegment(b), err
}

// readAll reads a file, or standard input when path is "-".
func readAll(path string, stdin io.Reader) ([]byte, error) {
	if path == "-" {
		b, err := io.ReadAll(stdin)
		if err != nil {
			return nil, fail(exitRead, "reading standard input: %v", err)
		}
		return b, nil
	}
	f, err := openFile(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(f)
	if err != nil {
		return nil, fail(exitRead, "reading %q: %s", path, reason(err))
	}
	return b, nil
}

// A payload is a request body.
type payload struct {
	segments    []segment
	stream      io.Reader // instead of segments: can be read once only
	size        int64     // -1: not known
	contentType string
}

func newPayload(contentType string, segs []segment) *payload {
	p := &payload{segments: segs, contentType: contentType}
	for _, s := range segs {
		p.size += s.size
	}
	return p
}

// open returns a reader of the whole body.
func (p *payload) open() io.ReadCloser {
	if c, ok := p.stream.(io.ReadCloser); ok {
		return c
	}
	if p.stream != nil {
		return io.NopCloser(p.stream)
	}
	return &segmentReader{left: p.segments}
}

type segmentReader struct {
	left []segment
	f    *os.File
	r    io.Reader
	n    int64 // bytes left of the current segment
}

func (s *segmentReader) Read(b []byte) (int, error) {
	for {
		if s.r == nil {
			if len(s.left) == 0 {
				return 0, io.EOF
			}
			seg := s.left[0]
			s.left = s.left[1:]
			s.n = seg.size
			s.r = bytes.NewReader(seg.data)
			if seg.path != "" {
				f, err := openFile(seg.path)
				if err != nil {
					return 0, err
				}
				s.f, s.r = f, f
			}
		}
		if s.n == 0 {
			if err := s.Close(); err != nil {
				return 0, err
			}
			s.r = nil
			continue
		}
		n, err := s.r.Read(b[:min(int64(len(b)), s.n)])
		s.n -= int64(n)
		if err == io.EOF && s.n > 0 {
			return n, fmt.Errorf("the file became %d bytes shorter while it was sent", s.n)
		} else if err == io.EOF {
			err = nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (s *segmentReader) Close() error {
	if s.f == nil {
		return nil
	}
	f := s.f
	s.f = nil
	return f.Close()
}

type dataKind int

const (
	dataASCII  dataKind = iota // -d: line ends and NULs of a file are dropped
	dataBinary                 // --data-binary
	dataRaw                    // --data-raw
	dataEncode                 // --data-urlencode
	dataJSON                   // --json: as binary, joined without &
)

// addData takes one -d or its kin.
func (c *config) addData(k dataKind, v string) error {
	seg := bytesSegment([]byte(v))
	var err error
	file, isFile := strings.CutPrefix(v, "@")
	switch {
	case k == dataEncode:
		seg, err = c.encoded(v)
	case isFile && (k == dataBinary || k == dataJSON):
		seg, err = fileSegment(file, c.stdin)
	case isFile && k == dataASCII:
		var b []byte
		b, err = c.readFile(file)
		seg = bytesSegment(withoutLineEnds(b))
	}
	if err != nil {
		return err
	}
	if c.hasData && k != dataJSON {
		c.data = append(c.data, bytesSegment([]byte("&")))
	}
	c.data = append(c.data, seg)
	c.hasData = true
	return nil
}

func withoutLineEnds(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for _, x := range b {
		if x != '\r' && x != '\n' && x != 0 {
			out = append(out, x)
		}
	}
	return out
}

// encoded takes --data-urlencode's TEXT, =TEXT, NAME=TEXT, @FILE and NAME@FILE.
func (c *config) encoded(v string) (segment, error) {
	name, text := "", v
	if i := strings.IndexAny(v, "=@"); i >= 0 {
		name, text = v[:i], v[i+1:]
		if v[i] == '@' {
			b, err := c.readFile(text)
			if err != nil {
				return segment{}, err
			}
			text = string(b)
		}
	}
	if name != "" {
		name += "="
	}
	return bytesSegment([]byte(name + strings.ReplaceAll(url.QueryEscape(text), "+", "%20"))), nil
}

// payload returns what to send to t, or nil.
func (c *config) payload(t *target) (*payload, error) {
	switch {
	case t.fromStdin():
		return &payload{stream: c.stdin, size: -1}, nil
	case t.hasUpload:
		fi, err := os.Stat(t.upload)
		if err == nil && !fi.Mode().IsRegular() {
			f, err := openFile(t.upload)
			return &payload{stream: f, size: -1}, err
		}
		seg, err := fileSegment(t.upload, c.stdin)
		return newPayload("", []segment{seg}), err
	case len(c.form) > 0:
		return formPayload(c.form), nil
	case c.hasData && !c.get:
		ct := "application/x-www-form-urlencoded"
		if c.json {
			ct = "application/json"
		}
		return newPayload(ct, c.data), nil
	}
	return nil, nil
}

// query returns what -G adds to the URL.
func (c *config) query() (string, error) {
	if !c.get || !c.hasData {
		return "", nil
	}
	r := newPayload("", c.data).open()
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		return "", fail(exitRead, "%v", err)
	}
	return string(b), nil
}
