package control

import (
	"bytes"
	"net/http"
)

// metricsPath is where Prometheus looks unless it is told otherwise.
const metricsPath = "/metrics"

// metrics has the handler of the configuration answer.
func (cc *clientConn) metrics(req *http.Request) *response {
	w := &written{header: make(http.Header)}
	cc.srv.cfg.Metrics.ServeHTTP(w, req.WithContext(cc.srv.ctx))
	w.WriteHeader(http.StatusOK)
	for _, ours := range []string{"Connection", "Transfer-Encoding"} {
		w.header.Del(ours)
	}
	return &response{written: w}
}

// written is what a handler answers, kept until it is known how long it is. It implements
// http.ResponseWriter.
type written struct {
	header http.Header
	status int
	body   bytes.Buffer
}

func (w *written) Header() http.Header { return w.header }

func (w *written) WriteHeader(status int) {
	if w.status == 0 {
		w.status = status
	}
}

func (w *written) Write(b []byte) (int, error) {
	w.WriteHeader(http.StatusOK)
	return w.body.Write(b)
}
