package metrics

import (
	"testing"

	"github.com/ustack/ustack/link"
	"github.com/ustack/ustack/stack"
)

// Every counter of netstack's is in exactly one series, or among those that are not
// shown; and nothing else is.
func TestEveryCounterHasAPlace(t *testing.T) {
	wire, far := link.Pipe(link.PipeConfig{})
	defer far.Close()
	s, err := stack.New(stack.Config{Device: wire})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	left := s.Counters()
	take := func(path, where string) {
		if _, ok := left[path]; !ok {
			t.Errorf("%s: netstack has no counter %s, or another has it as well", where, path)
		}
		delete(left, path)
	}
	for _, c := range netstackCounters() {
		for _, series := range c.series {
			take(series.path, c.name)
			if len(series.labels) != len(c.labels) {
				t.Errorf("%s: labels %v have the values %v", c.name, c.labels, series.labels)
			}
		}
	}
	for path, why := range notShown() {
		take(path, "not shown: "+why)
	}
	for path := range left {
		t.Errorf("%s is in no metric", path)
	}
}
