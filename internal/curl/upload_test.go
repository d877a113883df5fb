package curl

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"strings"
	"testing"
)

func quietLog() *log.Logger { return log.New(io.Discard, "", 0) }

// bulk is n bytes that repeat nowhere, from a fixed seed.
func bulk(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{1}).Read(b)
	return b
}

func digest(w http.ResponseWriter, r *http.Request) {
	h := sha256.New()
	n, err := io.Copy(h, r.Body)
	if err != nil {
		panic(err)
	}
	fmt.Fprintf(w, "%s %s %d %v %x", r.Method, r.URL.Path, n, r.TransferEncoding, h.Sum(nil))
}

func TestLargeTransfers(t *testing.T) {
	data := bulk(20 << 20)
	sum := fmt.Sprintf("%x", sha256.Sum256(data))
	path := file(t, "big.bin", string(data))
	plain := serve(t, digest)
	h2, _ := secure(t, true, digest)
	for name, tt := range map[string]struct {
		args []string
		want string
	}{
		"file":          {[]string{"-T", path, plain.URL + "/"}, "PUT /big.bin 20971520 [] " + sum},
		"named":         {[]string{"-T", path, plain.URL + "/to"}, "PUT /to 20971520 [] " + sum},
		"stdin":         {[]string{"-T", "-", plain.URL + "/to"}, "PUT /to 20971520 [chunked] " + sum},
		"stdin post":    {[]string{"--data-binary", "@-", plain.URL + "/to"}, "POST /to 20971520 [] " + sum},
		"post":          {[]string{"--data-binary", "@" + path, plain.URL + "/to"}, "POST /to 20971520 [] " + sum},
		"asked chunked": {[]string{"-T", path, "-H", "Transfer-Encoding: chunked", plain.URL + "/to"}, "PUT /to 20971520 [chunked] " + sum},
		"HTTP/2":        {[]string{"-k", "-T", path, h2.URL + "/to"}, "PUT /to 20971520 [] " + sum},
		"100-continue":  {[]string{"-H", "Expect: 100-continue", "-T", path, plain.URL + "/to"}, "PUT /to 20971520 [] " + sum},
	} {
		t.Run(name, func(t *testing.T) {
			x := newTool()
			x.env.Stdin = bytes.NewReader(data)
			x.run(tt.args...).want(t, 0, tt.want)
		})
	}
	down := serve(t, func(w http.ResponseWriter, r *http.Request) { w.Write(data) })
	if o := run(down.URL); o.code != 0 || fmt.Sprintf("%x", sha256.Sum256([]byte(o.out))) != sum {
		t.Fatalf("download: exit %d, %d bytes", o.code, len(o.out))
	}
	run("-w", "%{size_upload}", "-o", "/dev/null", "-T", path, plain.URL+"/").want(t, 0, "20971520")
}

func TestMultipart(t *testing.T) {
	s := serve(t, func(w http.ResponseWriter, r *http.Request) {
		m, err := r.MultipartReader()
		if err != nil {
			fmt.Fprint(w, err)
			return
		}
		for {
			p, err := m.NextPart()
			if err != nil {
				break
			}
			b, _ := io.ReadAll(p)
			fmt.Fprintf(w, "%s|%s|%s|%s\n", p.FormName(), p.FileName(), p.Header.Get("Content-Type"), b)
		}
		fmt.Fprintf(w, "chunked %v", len(r.TransferEncoding) > 0)
	})
	txt := file(t, "a.txt", "file text")
	bin := file(t, "b.bin", "\x00\x01")
	x := newTool()
	x.env.Stdin = strings.NewReader("from stdin")
	x.run("-F", "plain=value; with; semicolons", "-F", "typed=x;type=text/css", "-F", "f=@"+txt, "-F", "g=@"+bin+";filename=other.png;type=image/png",
		"-F", "insert=<"+txt, "-F", "in=@-;filename=s", "--form-string", "raw=@x;type=y", "-F", `quoted="a;type=b"`, s.URL).want(t, 0,
		"plain|||value; with; semicolons\ntyped||text/css|x\nf|a.txt|text/plain|file text\ng|other.png|image/png|\x00\x01\n"+
			"insert|||file text\nin|s|application/octet-stream|from stdin\nraw|||@x;type=y\nquoted|||a;type=b\nchunked false")
}
