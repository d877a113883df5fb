package curl

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
	"sync"
	"time"
)

// A session is one run of the program: its connections are used for several URLs.
type session struct {
	c      *config
	env    Env
	d      Dialer
	tr     *http.Transport
	tlsErr error // --cacert or --cert that cannot be used
	tls    *tls.Config

	connecting sync.WaitGroup

	mu     sync.Mutex
	conns  map[*wireConn]struct{}
	nconns int
	dumped bool // --dump-header's file was begun
}

func newSession(c *config, env Env, d Dialer) *session {
	s := &session{c: c, env: env, d: d, conns: map[*wireConn]struct{}{}}
	s.tls, s.tlsErr = c.tlsConfig()
	s.tr = &http.Transport{
		// Proxy stays nil: the environment's would lead around the stack.
		DialContext:            s.dialPlain,
		DialTLSContext:         s.dialTLS,
		DisableCompression:     true,
		MaxIdleConnsPerHost:    8,
		ExpectContinueTimeout:  time.Second,
		MaxResponseHeaderBytes: maxHead,
		WriteBufferSize:        bufferSize,
		ReadBufferSize:         64 << 10,
		Protocols:              new(http.Protocols),
		HTTP2:                  &http.HTTP2Config{MaxReadFrameSize: bufferSize, MaxReceiveBufferPerStream: 16 << 20},
	}
	switch c.http {
	case http1:
		s.tr.Protocols.SetHTTP1(true)
	case http2Prior:
		s.tr.Protocols.SetHTTP2(true)
		s.tr.Protocols.SetUnencryptedHTTP2(true)
	default:
		s.tr.Protocols.SetHTTP1(true)
		s.tr.Protocols.SetHTTP2(true)
	}
	return s
}

// close ends every connection and waits for attempts still under way.
func (s *session) close() {
	s.tr.CloseIdleConnections()
	s.mu.Lock()
	var open []*wireConn
	for c := range s.conns {
		open = append(open, c)
	}
	s.mu.Unlock()
	for _, c := range open {
		c.Close()
	}
	s.connecting.Wait()
	if c, ok := s.d.(interface{ Close() error }); ok && s.env.Dialer == nil {
		c.Close()
	}
}

func (c *config) tlsConfig() (*tls.Config, error) {
	t := &tls.Config{InsecureSkipVerify: c.insecure, MinVersion: c.tlsMin, MaxVersion: c.tlsMax}
	switch c.http {
	case http1:
		t.NextProtos = []string{"http/1.1"}
	case http2Prior:
		t.NextProtos = []string{"h2"}
	default:
		t.NextProtos = []string{"h2", "http/1.1"}
	}
	if c.cacert != "" {
		pem, err := os.ReadFile(c.cacert)
		if err != nil {
			return nil, fail(exitCAFile, "error setting certificate verify locations: CAfile %q: %s", c.cacert, reason(err))
		}
		t.RootCAs = x509.NewCertPool()
		if !t.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fail(exitCAFile, "error setting certificate verify locations: CAfile %q holds no PEM certificate", c.cacert)
		}
	}
	if c.cert != "" {
		key := c.key
		if key == "" {
			key = c.cert
		}
		pair, err := tls.LoadX509KeyPair(c.cert, key)
		if err != nil {
			return nil, fail(exitClientCert, "could not load PEM client certificate %q with key %q: %v", c.cert, key, err)
		}
		t.Certificates = []tls.Certificate{pair}
	}
	return t, nil
}
