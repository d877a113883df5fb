package spec

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/ustack/ustack/link"
)

// impairOptions are those that every kind has: what happens to frames on their way,
// see link.ImpairConfig.
func impairOptions() []option {
	return []option{
		{"delay", "TIME", checked(parseTime)},
		{"jitter", "TIME", checked(parseTime)},
		{"loss", "PERCENT", checked(parsePercent)},
		{"duplicate", "PERCENT", checked(parsePercent)},
		{"reorder", "PERCENT", checked(parsePercent)},
		{"corrupt", "PERCENT", checked(parsePercent)},
		{"rate", "RATE", checked(parseRate)},
		{"limit", "FRAMES", number(1, link.MaxImpairLimit)},
		{"seed", "N", checked(parseSeed)},
	}
}

func checked[T any](parse func(string) (T, error)) func(string) error {
	return func(s string) error {
		_, err := parse(s)
		return err
	}
}

// impair returns the configuration that a Spec whose options are checked asks for.
func (s Spec) impair() link.ImpairConfig {
	return link.ImpairConfig{
		Delay:     value(s, "delay", parseTime),
		Jitter:    value(s, "jitter", parseTime),
		Loss:      value(s, "loss", parsePercent),
		Duplicate: value(s, "duplicate", parsePercent),
		Reorder:   value(s, "reorder", parsePercent),
		Corrupt:   value(s, "corrupt", parsePercent),
		Rate:      value(s, "rate", parseRate),
		Limit:     s.number("limit"),
		Seed:      value(s, "seed", parseSeed),
	}
}

// value returns what a checked option means, zero where it is not given.
func value[T any](s Spec, name string, parse func(string) (T, error)) (v T) {
	if text, ok := s.lookup(name); ok {
		v, _ = parse(text)
	}
	return v
}

// A unit is what a number may be followed by, and what it is then multiplied with.
type unit struct {
	name string
	size float64
}

// quantity reads a number, such as 20 or 0.1, with one of some units right behind it.
func quantity(s, example string, units ...unit) (float64, error) {
	end := strings.IndexFunc(s, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end < 0 {
		end = len(s)
	}
	n, err := strconv.ParseFloat(s[:end], 64)
	if err != nil || s[0] == '.' || s[end-1] == '.' {
		return 0, fmt.Errorf("%q is not a number with a unit: use one such as %s", s, example)
	}
	var names []string
	for _, u := range units {
		if u.name == s[end:] {
			return n * u.size, nil
		}
		names = append(names, u.name)
	}
	if end == len(s) {
		return 0, fmt.Errorf("%q has no unit: use %s, as in %s", s, strings.Join(names, ", "), example)
	}
	return 0, fmt.Errorf("unknown unit %q in %q%s: use %s, as in %s", s[end:], s, nearest(strings.ToLower(s[end:]), names), strings.Join(names, ", "), example)
}

func parseTime(s string) (time.Duration, error) {
	v, err := quantity(s, "20ms", unit{"us", 1e3}, unit{"ms", 1e6}, unit{"s", 1e9})
	if err != nil {
		return 0, err
	}
	if v > float64(link.MaxImpairDelay) {
		return 0, fmt.Errorf("%q is too long: use at most %vs", s, link.MaxImpairDelay.Seconds())
	}
	return time.Duration(math.Round(v)), nil
}

// parsePercent returns a probability.
func parsePercent(s string) (float64, error) {
	v, err := quantity(s, "0.1%", unit{"%", 1})
	if err != nil {
		return 0, err
	}
	if v > 100 {
		return 0, fmt.Errorf("%q is more than certain: use 0%% to 100%%", s)
	}
	return v / 100, nil
}

// parseRate returns bits per second; prefixes are decimal, as in tc(8).
func parseRate(s string) (uint64, error) {
	v, err := quantity(s, "100mbit", unit{"bit", 1}, unit{"kbit", 1e3}, unit{"mbit", 1e6}, unit{"gbit", 1e9})
	if err != nil {
		return 0, err
	}
	if v < 1 || v > 1e15 {
		return 0, fmt.Errorf("%q is out of range: use 1bit to 1000000gbit (bits per second)", s)
	}
	return uint64(math.Round(v)), nil
}

func parseSeed(s string) (uint64, error) {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || s != strconv.FormatUint(n, 10) {
		return 0, fmt.Errorf("%q is not a number from 0 to %d", s, uint64(math.MaxUint64))
	}
	return n, nil
}
