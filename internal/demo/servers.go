package demo

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// siteName is the name that the demo's DNS server knows.
const siteName = "www.baidu.com"

// servers are the Internet of the demo: a DNS server that knows one name, and a
// web server with one page. They run on whatever sockets they are given.
type servers struct {
	web  *http.Server
	dns  *dns.Server
	done sync.WaitGroup
}

// serve starts both; it owns the sockets. The name is answered with site.
func serve(udp net.PacketConn, tcp net.Listener, site netip.Addr) (*servers, error) {
	mux := dns.NewServeMux()
	mux.HandleFunc(".", func(w dns.ResponseWriter, q *dns.Msg) { answer(w, q, site) })
	started := make(chan struct{})
	s := &servers{
		dns: &dns.Server{PacketConn: udp, Handler: mux, NotifyStartedFunc: func() { close(started) }},
		web: &http.Server{Handler: http.HandlerFunc(page), ReadTimeout: 10 * time.Second, WriteTimeout: 10 * time.Second},
	}
	failed := make(chan error, 1)
	s.done.Go(func() { failed <- s.dns.ActivateAndServe() })
	s.done.Go(func() { s.web.Serve(tcp) }) // ends with ErrServerClosed
	select {
	case <-started:
		return s, nil
	case err := <-failed:
		s.web.Close()
		s.done.Wait()
		udp.Close()
		return nil, fmt.Errorf("start the DNS server: %w", err)
	}
}

// close ends both and waits for them.
func (s *servers) close() error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	err := errors.Join(s.dns.ShutdownContext(ctx), s.web.Close())
	s.done.Wait()
	return err
}

func answer(w dns.ResponseWriter, q *dns.Msg, site netip.Addr) {
	m := new(dns.Msg)
	m.SetReply(q)
	m.Authoritative = true
	for _, question := range q.Question {
		switch {
		case question.Name != dns.Fqdn(siteName):
			m.Rcode = dns.RcodeNameError
		case question.Qtype == dns.TypeA:
			header := dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 60}
			m.Answer = append(m.Answer, &dns.A{Hdr: header, A: site.AsSlice()})
		}
	}
	w.WriteMsg(m) // a lost answer is asked for again
}

func page(w http.ResponseWriter, r *http.Request) {
	client, _, _ := net.SplitHostPort(r.RemoteAddr)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	fmt.Fprint(w, pageText(r.Host, client))
}

// pageText is the page as a client at the given address sees it.
func pageText(host, client string) string {
	return fmt.Sprintf("Hello from %s! This server sees you as %s.\n", host, client)
}
