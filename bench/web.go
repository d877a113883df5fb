package main

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strconv"
)

// A server of the role "web" answers any request on webPort with webBody bytes.
const (
	webPort = 7003
	webBody = 64 << 10
)

// startWeb serves in this process's namespace until stop.
func startWeb() (stop func(), err error) {
	l, err := net.Listen("tcp4", fmt.Sprintf(":%d", webPort))
	if err != nil {
		return nil, err
	}
	body := payload()[:webBody]
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		srv.Serve(l)
	}()
	return func() {
		srv.Shutdown(context.Background())
		<-done
	}, nil
}
