package main

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"time"
)

// get fetches URLs one after another over kept connections and prints their bodies.
func get(urls []string) error {
	client := &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true}, // the tests' own server
		ForceAttemptHTTP2: true,
	}}
	defer client.CloseIdleConnections()
	for _, url := range urls {
		resp, err := client.Get(url)
		if err != nil {
			return err
		}
		_, err = io.Copy(os.Stdout, resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		fmt.Fprintln(os.Stderr, resp.Proto, resp.StatusCode)
	}
	return nil
}

// page is what serve answers to GET.
const page = "hello from a static server\n"

// serve answers GET with page and PUT with the SHA-256 of the body, until it is
// killed. /wait/N answers nobody until N requests wait.
func serve(addresses []string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /", func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, page) })
	mux.HandleFunc("PUT /", func(w http.ResponseWriter, r *http.Request) {
		h := sha256.New()
		n, err := io.Copy(h, r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		fmt.Fprintf(w, "%x %d\n", h.Sum(nil), n)
	})
	var mu sync.Mutex
	waiting, all := 0, make(chan struct{})
	mux.HandleFunc("GET /wait/{n}", func(w http.ResponseWriter, r *http.Request) {
		var n int
		if _, err := fmt.Sscan(r.PathValue("n"), &n); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mu.Lock()
		waiting++
		if waiting == n {
			close(all)
		}
		mu.Unlock()
		select {
		case <-all:
			io.WriteString(w, page)
		case <-r.Context().Done():
		}
	})
	srv := &http.Server{Handler: mux}
	ended := make(chan error, len(addresses))
	for _, address := range addresses {
		l, err := net.Listen("tcp", address)
		if err != nil {
			return err
		}
		fmt.Println("serving", l.Addr())
		go func() { ended <- srv.Serve(l) }()
	}
	err := <-ended
	srv.Shutdown(context.Background())
	return err
}
