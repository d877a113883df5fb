package curl

import (
	"context"
	"io"
)

// An inputReader makes reads of r end with ctx. A read that is under way then is
// left behind, as there is no way to call it off.
type inputReader struct {
	ctx context.Context
	r   io.Reader
	buf []byte // read and not yet taken
}

func (i *inputReader) Read(b []byte) (int, error) {
	if len(i.buf) == 0 {
		type result struct {
			b   []byte
			err error
		}
		ch := make(chan result, 1)
		tmp := make([]byte, max(len(b), 1))
		go func() {
			n, err := i.r.Read(tmp)
			ch <- result{tmp[:n], err}
		}()
		select {
		case r := <-ch:
			if len(r.b) == 0 {
				return 0, r.err
			}
			i.buf = r.b
			if r.err != nil && r.err != io.EOF {
				n := copy(b, i.buf)
				i.buf = nil
				return n, r.err
			}
		case <-i.ctx.Done():
			return 0, i.ctx.Err()
		}
	}
	n := copy(b, i.buf)
	i.buf = i.buf[n:]
	return n, nil
}
