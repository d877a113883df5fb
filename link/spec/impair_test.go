package spec

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/ustack/ustack/link"
)

func TestImpairOptions(t *testing.T) {
	for s, want := range map[string]link.ImpairConfig{
		"tap:tap0": {},
		"tap:tap0,delay=20ms,jitter=2ms,loss=1%,duplicate=0.1%,reorder=1%,corrupt=0.1%,rate=1gbit,limit=1000,seed=7": {
			Delay: 20 * time.Millisecond, Jitter: 2 * time.Millisecond, Loss: 0.01, Duplicate: 0.001, Reorder: 0.01,
			Corrupt: 0.001, Rate: 1e9, Limit: 1000, Seed: 7,
		},
		"pipe:,delay=0.5s":                     {Delay: 500 * time.Millisecond},
		"pipe:,delay=3600s,loss=100%":          {Delay: time.Hour, Loss: 1},
		"pipe:,delay=1.5us,reorder=0%":         {Delay: 1500},
		"tap:tap0,rate=1.5mbit,loss=0%":        {Rate: 1500000},
		"tap:tap0,rate=64kbit,queues=2":        {Rate: 64000},
		"tap:tap0,rate=9bit":                   {Rate: 9},
		"tap:tap0,seed=18446744073709551615":   {Seed: 1<<64 - 1},
		"tap:tap0,driver=water,rate=40000gbit": {Rate: 4e13},
	} {
		sp, err := Parse(s)
		if err != nil {
			t.Errorf("Parse(%q): %v", s, err)
		} else if got := sp.impair(); got != want {
			t.Errorf("%s: %+v, want %+v", s, got, want)
		} else if sp.String() != s {
			t.Errorf("%q came back as %q", s, sp)
		}
	}
}

func TestImpairErrors(t *testing.T) {
	for s, words := range map[string]string{
		"delai=1ms":           `nearest: "delay"`,
		"los=1%":              `nearest: "loss" | loss=PERCENT`,
		"delay=20":            `option delay: "20" has no unit: use us, ms, s, as in 20ms`,
		"delay=20sm":          `unknown unit "sm" in "20sm" | use us, ms, s`,
		"delay=20mss":         `nearest: "ms"`,
		"delay=ms":            `"ms" is not a number with a unit`,
		"delay=-1ms":          `not a number`,
		"delay=.5ms":          `not a number`,
		"delay=5.ms":          `not a number`,
		"delay=1.2.3ms":       `not a number`,
		"delay=1e3ms":         `unknown unit "e3ms"`,
		"delay=1ms2us":        `unknown unit "ms2us"`,
		"delay=0x1ms":         `unknown unit "x1ms"`,
		"delay=3601s":         `too long: use at most 3600s`,
		"delay=1m":            `unknown unit "m"`,
		"jitter=1ms":          `jitter 1ms is out of range | the delay`,
		"delay=1ms,jitter=2s": `jitter 2s is out of range: use 0 to the delay, which is 1ms`,
		"loss=1":              `has no unit: use %, as in 0.1%`,
		"loss=101%":           `"101%" is more than certain`,
		"loss=NaN%":           `not a number`,
		"reorder=1%":          `reorder needs a delay`,
		"rate=1gbits":         `unknown unit "gbits" in "1gbits" (nearest: "gbit")`,
		"rate=1Gbit":          `nearest: "gbit"`,
		"rate=0bit":           `out of range`,
		"rate=9999999999gbit": `out of range`,
		"limit=0":             `1 to 1000000`,
		"seed=-1":             `not a number from 0`,
		"seed=01":             `not a number from 0`,
		"delay=1ms,delay=2ms": `given twice`,
		"rate=":               `use rate=RATE`,
		"loss=" + strings.Repeat("9", 4000) + "%": `not a number`,
	} {
		for _, kind := range []string{"tap:tap0,", "pipe:,"} {
			_, err := Parse(kind + s)
			if err == nil {
				t.Errorf("Parse(%q): no error", kind+s)
				continue
			}
			for word := range strings.SplitSeq(words, " | ") {
				if !strings.Contains(err.Error(), word) {
					t.Errorf("Parse(%.40q): %.300q does not say %q", kind+s, err, word)
				}
			}
			if strings.ContainsAny(err.Error(), "\n\r") {
				t.Errorf("the error is not one line: %q", err)
			}
		}
	}
}

// A wire opened with impairments has them.
func TestOpenImpaired(t *testing.T) {
	sp, err := Parse("pipe:,loss=100%")
	if err != nil {
		t.Fatal(err)
	}
	var far link.Device
	near, err := Open(sp, Env{Pipe: func(d link.Device) { far = d }})
	if err != nil {
		t.Fatal(err)
	}
	defer far.Close()
	defer near.Close()
	n, err := near.Queues()[0].Write([]link.OutFrame{{Pieces: [][]byte{make([]byte, 60)}}})
	if st := near.Stats(); n != 0 || err != nil || st.Drops["tx_lost"] != 1 {
		t.Errorf("Write = %d, %v; %+v", n, err, st)
	}
	if i := near.Info(); i.Kind != "pipe" || !strings.Contains(i.Driver, "impaired") {
		t.Errorf("Info %+v", i)
	}
}

func ExampleParse() {
	sp, err := Parse("tap:tap0,delay=20ms,loss=1")
	fmt.Println(sp.Kind, err)
	sp, err = Parse("tap:tap0,delay=20ms,loss=1%")
	fmt.Println(sp.Kind, err)
	// Output:
	//  link "tap:tap0,delay=20ms,loss=1": option loss: "1" has no unit: use %, as in 0.1%
	// tap <nil>
}
