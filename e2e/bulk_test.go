package e2e

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/ustack/ustack/control"
)

// 100 MB each way, both at once, through every driver, with small requests beside
// them; afterwards the daemon is small again.
func TestBulk(t *testing.T) {
	for _, drv := range drivers {
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
			stats := show[control.Stats](t, d, "stats")
			t.Logf("resident: %d KiB", stats.RSS>>10)
			if stats.RSS == 0 || stats.RSS > 60<<20 && !raced() {
				t.Errorf("%d MiB resident after the transfers", stats.RSS>>20)
			}
			d.terminate(t)
		})
	}
}
