package control

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"syscall"
)

const capturePath = "/v1/capture"

// CaptureOptions say what to capture; the zero value is every frame of every link, whole.
type CaptureOptions struct {
	// Filter is an expression as package capture/filter takes it.
	Filter string
	// Link is the name of a link; "" stands for all.
	Link string
	// SnapLen is how many bytes of a frame are kept; 0 keeps all.
	SnapLen int
	// Count ends the capture after so many frames, unless it is 0.
	Count uint64
	// Split gives the segments that a super-frame stands for instead of the super-frame.
	Split bool
	// Buffer is how many bytes wait for a slow client at most; 0 leaves that to the daemon.
	Buffer int
}

// A Capturer is a Backend whose frames can be captured.
type Capturer interface {
	// Capture writes frames to w as a pcapng section until ctx is done, as many were
	// written as o.Count says, or w fails. It begins to write at once, unless it returns an
	// error instead.
	Capture(ctx context.Context, o CaptureOptions, w io.Writer) error
}

func (o *CaptureOptions) query() url.Values {
	q := url.Values{}
	set := func(name, value string, is bool) {
		if is {
			q.Set(name, value)
		}
	}
	set("filter", o.Filter, o.Filter != "")
	set("link", o.Link, o.Link != "")
	set("snaplen", strconv.Itoa(o.SnapLen), o.SnapLen != 0)
	set("count", strconv.FormatUint(o.Count, 10), o.Count != 0)
	set("split", "1", o.Split)
	set("buffer", strconv.Itoa(o.Buffer), o.Buffer != 0)
	return q
}

// captureOptions is the inverse of query. It is strict: a misspelt name would capture something
// else than was asked for.
func captureOptions(q url.Values) (o CaptureOptions, err error) {
	for name, values := range q {
		value := values[len(values)-1]
		switch name {
		case "filter":
			o.Filter = value
		case "link":
			o.Link = value
		case "snaplen":
			o.SnapLen, err = strconv.Atoi(value)
		case "count":
			o.Count, err = strconv.ParseUint(value, 10, 64)
		case "split":
			o.Split, err = strconv.ParseBool(value)
		case "buffer":
			o.Buffer, err = strconv.Atoi(value)
		default:
			return o, invalid(fmt.Sprintf("%s takes no %q: use filter, link, snaplen, count, split or buffer", capturePath, name))
		}
		if err != nil {
			return o, invalid(fmt.Sprintf("%s: %s %q is not a number", capturePath, name, value))
		}
	}
	return o, nil
}

// capture answers GET /v1/capture: what comes is the capture, until the client half-closes.
func (cc *clientConn) capture(req *http.Request, br *bufio.Reader) error {
	return cc.answerStream(br, "application/x-pcapng", func(ctx context.Context, w io.Writer) error {
		capturer, ok := cc.srv.cfg.Backend.(Capturer)
		if !ok {
			return &remoteError{text: "this daemon captures no frames", errno: syscall.EOPNOTSUPP}
		}
		o, err := captureOptions(req.URL.Query())
		if err != nil {
			return err
		}
		return capturer.Capture(ctx, o, w)
	})
}

// Capture begins to capture: a pcapng section. What cannot be captured is told here; ctx is for
// the beginning only. The stream must be closed.
func (c *Client) Capture(ctx context.Context, o CaptureOptions) (*Stream, error) {
	return c.openStream(ctx, capturePath+"?"+o.query().Encode())
}
