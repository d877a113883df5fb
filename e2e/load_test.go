package e2e

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/ustack/ustack/control"
	"github.com/ustack/ustack/internal/netlab"
)

// 1,000 requests one after another and 200 at once, by programs and within one
// client, leave nothing behind.
func TestManyRequestsLeaveNothing(t *testing.T) {
	l := newLab(t, natUplink)
	d := up(t, l.host, static("tap:tap0", "--uplink", "eth0")...)
	client := d.client(t)
	web := &http.Client{
		Timeout:   time.Minute,
		Transport: &http.Transport{DialContext: client.DialContext, DisableKeepAlives: true},
	}
	get := func() error {
		resp, err := web.Get("http://" + webIP4 + "/")
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || string(b) != pageText {
			return fmt.Errorf("got %q, %w", b, err)
		}
		return nil
	}
	programs := func(n int) {
		r := d.run(t, "curl", "-sS", "http://"+webIP4+"/")
		if r.code != 0 || r.stdout != pageText {
			t.Errorf("curl %d: %v", n, r)
		}
	}
	round := func(inside, outside int) {
		for i := range inside {
			if err := get(); err != nil {
				t.Fatalf("request %d: %v", i, err)
			}
		}
		for i := range outside {
			programs(i)
		}
	}
	atOnce := func(inside, outside int) {
		var wg sync.WaitGroup
		for i := range inside {
			wg.Go(func() {
				if err := get(); err != nil {
					t.Errorf("request %d at once: %v", i, err)
				}
			})
		}
		for i := range outside {
			wg.Go(func() { programs(i) })
		}
		wg.Wait()
	}
	settled := func() control.Stats {
		var s control.Stats
		netlab.WaitFor(t, 10*time.Second, "flows to end", func() bool {
			var err error
			if s, err = client.Stats(context.Background()); err != nil {
				t.Fatal(err)
			}
			return s.Flows == 0
		})
		return s
	}

	// Buffers that are kept for reuse exist after this.
	round(200, 10)
	atOnce(150, 50)
	before := settled()
	round(900, 100)
	atOnce(150, 50)
	netlab.WaitFor(t, 10*time.Second, "goroutines and descriptors to go", func() bool {
		s := settled()
		return s.Goroutines <= before.Goroutines+2 && s.Descriptors <= before.Descriptors+2
	})
	after := settled()
	if before.Goroutines == 0 || before.Descriptors == 0 || before.RSS == 0 {
		t.Errorf("the daemon does not tell its own figures: %+v", before)
	}
	t.Logf("before %+v\nafter %+v", brief(before), brief(after))
	// Room for the collector's mood and for connections in TIME-WAIT, less than
	// what a buffer kept for each request would take.
	if grown := int64(after.RSS) - int64(before.RSS); grown > 24<<20 && !raced() {
		t.Errorf("resident memory grew by %d KiB", grown>>10)
	}
	d.terminate(t)
}

func brief(s control.Stats) string {
	return fmt.Sprintf("%d goroutines, %d descriptors, %d KiB, %d flows", s.Goroutines, s.Descriptors, s.RSS>>10, s.Flows)
}
