package control

import (
	"bufio"
	"io"
	"net/http"
	"sync"
)

// connect answers CONNECT host:port: the connection becomes the stream. Bytes that
// came behind the request go first.
func (cc *clientConn) connect(req *http.Request, br *bufio.Reader) {
	conn, err := cc.connectDial(req)
	cc.srv.requests.add("http", "CONNECT", err)
	if err != nil {
		_ = cc.answer(&response{err: err}, true)
		return
	}
	cc.srv.starting.Add(1)
	started := sync.OnceFunc(func() { cc.srv.starting.Add(-1) })
	defer started()
	if _, err := io.WriteString(cc.e, "HTTP/1.1 200 Connection established\r\n\r\n"); err != nil {
		conn.Abort()
		return
	}
	growSend(cc.e)
	p := newPump(conn, cc.e, &cc.srv.flows)
	p.told = cc.observed()
	if n := br.Buffered(); n > 0 {
		head, _ := br.Peek(n)
		p.head = append([]byte(nil), head...)
	}
	key := newOwnerKey("tcp", conn.LocalAddr().String(), conn.RemoteAddr().String())
	cc.srv.setOwner(key, cc.who)
	defer cc.srv.dropOwner(key)
	done := make(chan struct{})
	cc.srv.startPath(p, p.run, func() { close(done) })
	started()
	<-done
}

func (cc *clientConn) connectDial(req *http.Request) (Conn, error) {
	if err := cc.srv.accepting(); err != nil {
		return nil, err
	}
	ctx, stop := cc.untilGone(cc.srv.ctx)
	defer stop()
	return dialTCP(ctx, cc.srv.cfg.Backend, nil, Request{Network: "tcp", Address: req.RequestURI}, nil)
}

func growSend(e *endpoint) {
	_ = e.control(func(fd int) error {
		setSendBuffer(fd, socketBuffer)
		return nil
	})
}
