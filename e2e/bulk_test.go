package e2e

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/internal/netlab"
)

// 100 MB each way, both at once, through every driver, with small requests beside
// them; afterwards the daemon is small again.
func TestBulk(t *testing.T) {
	for _, drv := range drivers() {
		t.Run(drv.name, func(t *testing.T) {
			l := newLab(t, natUplink)
			d := up(t, l.host, static(drv.spec, "--uplink", "eth0")...)
			want := bulkFile(t, filepath.Join(l.dir, "www", "bulk"))
			got := filepath.Join(l.dir, "got")
			sent := filepath.Join(l.dir, "www", "up", "bulk")

			var wg sync.WaitGroup
			var down, upload result
			wg.Go(func() { down = d.run(t, "curl", "-sS", "--max-time", "110", "-o", got, "http://"+web+"/bulk") })
			wg.Go(func() {
				upload = d.run(t, "curl", "-sS", "-f", "--max-time", "110", "-T", filepath.Join(l.dir, "www", "bulk"), "http://"+web+"/up/bulk")
			})
			wg.Go(func() {
				for range 20 {
					r := d.run(t, "curl", "-sS", "--max-time", "20", web)
					if r.code != 0 || r.stdout != pageText {
						t.Errorf("small request beside: %v", r)
					}
				}
			})
			wg.Wait()
			for _, x := range []struct {
				what, file string
				r          result
			}{{"download", got, down}, {"upload", sent, upload}} {
				if x.r.code != 0 {
					t.Errorf("%s: %v", x.what, x.r)
				}
				if _, err := os.Stat(x.file); err != nil {
					t.Errorf("%s: %v", x.what, err)
				} else if hash, n := hashFile(t, x.file); hash != want || n != bulkBytes {
					t.Errorf("%s: %d bytes with hash %s, want %d with %s", x.what, n, hash, bulkBytes, want)
				}
			}
			t.Logf("resident: %d KiB", show[control.Stats](t, d, "stats").RSS>>10)
			if !raced() {
				// The runtime gives memory back at leisure.
				netlab.WaitFor(t, 20*time.Second, "no more than 60 MiB to be resident", func() bool {
					rss := show[control.Stats](t, d, "stats").RSS
					return rss > 0 && rss <= 60<<20
				})
			}
			d.terminate(t)
		})
	}
}

// The other way round: a server on the stack, written in Go against control, and
// kernel curl that fetches from it and sends to it, at once.
func TestBulkFromStackServer(t *testing.T) {
	for _, drv := range drivers() {
		t.Run(drv.name, func(t *testing.T) {
			host := netlab.New(t, "host")
			curl := netlab.Peer(t, "curl")
			d := up(t, host, static(drv.spec)...)
			dir := scratch(t)
			file := filepath.Join(dir, "bulk")
			want := bulkFile(t, file)
			l, err := d.client(t).Listen(context.Background(), "tcp", ":80")
			if err != nil {
				t.Fatal(err)
			}
			srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					http.ServeFile(w, r, file)
					return
				}
				h := sha256.New()
				if _, err := io.Copy(h, r.Body); err != nil {
					t.Errorf("receive: %v", err)
				}
				fmt.Fprintf(w, "%x", h.Sum(nil))
			})}
			done := make(chan struct{})
			go func() { defer close(done); srv.Serve(l) }()
			got := filepath.Join(dir, "got")
			var wg sync.WaitGroup
			var down, upload result
			wg.Go(func() { down = runIn(t, host, nil, curl, "-sS", "--max-time", "110", "-o", got, "http://"+stack4+"/") })
			wg.Go(func() {
				upload = runIn(t, host, nil, curl, "-sS", "--max-time", "110", "-T", file, "http://["+stack6+"]/up")
			})
			wg.Wait()
			srv.Close()
			<-done
			if down.code != 0 || upload.code != 0 || upload.stdout != want {
				t.Errorf("want hash %s\ndownload: %v\nupload: %v", want, down, upload)
			}
			if hash, n := hashFile(t, got); hash != want || n != bulkBytes {
				t.Errorf("download: %d bytes with hash %s, want %d with %s", n, hash, bulkBytes, want)
			}
			d.terminate(t)
		})
	}
}
