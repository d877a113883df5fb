package metrics

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"golang.org/x/net/netutil"
)

// Path is where a Server has the metrics; it has nothing else.
const Path = "/metrics"

// Limits of a Server, whose clients may be anybody.
const (
	maxConns = 32
	maxHead  = 16 << 10 // bytes of a request head
	headTime = 5 * time.Second
	sendTime = 30 * time.Second // of an answer
	idleTime = 75 * time.Second // longer than the usual time between scrapes
	endTime  = time.Second      // for scrapes under way when the Server ends
)

// A Server offers metrics over HTTP on TCP sockets of the host, at Path alone. Its clients see
// what the metrics say and can change nothing.
type Server struct {
	l      net.Listener
	log    *slog.Logger
	http   *http.Server
	served chan struct{} // closed when the goroutine of Serve has ended; nil before Serve
}

// Listen opens "host:port" of the host, an empty host meaning every address, port 0 any free
// one. Whoever connects waits until Serve. log gets errors of connections; nil discards. The
// error is a *net.OpError.
func Listen(address string, log *slog.Logger) (*Server, error) {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, err
	}
	return &Server{l: l, log: log}, nil
}

// URL is where the metrics are, with the address as the host knows it.
func (s *Server) URL() string { return "http://" + s.l.Addr().String() + Path }

// Serve answers with h on a goroutine of its own. It must be called once at most.
func (s *Server) Serve(h http.Handler) {
	mux := http.NewServeMux()
	mux.Handle("GET "+Path, h)
	s.http = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: headTime,
		ReadTimeout:       headTime,
		WriteTimeout:      sendTime,
		IdleTimeout:       idleTime,
		MaxHeaderBytes:    maxHead,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelDebug),
	}
	s.served = make(chan struct{})
	go func() {
		defer close(s.served)
		if err := s.http.Serve(netutil.LimitListener(s.l, maxConns)); !errors.Is(err, http.ErrServerClosed) {
			s.log.Error("metrics are not offered any more", "url", s.URL(), "err", err)
		}
	}()
}

// Close ends the server. Scrapes under way have a second to end.
func (s *Server) Close() error {
	if s.served == nil {
		return s.l.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), endTime)
	defer cancel()
	err := s.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		err = s.http.Close()
	}
	<-s.served
	if err != nil {
		return fmt.Errorf("metrics: close %s: %w", s.URL(), err)
	}
	return nil
}
