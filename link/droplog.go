package link

import (
	"log/slog"
	"maps"
	"slices"
	"time"
)

// Pauses between two lines of a DropLog.
const (
	dropLogMin = time.Second
	dropLogMax = 64 * time.Second
)

// A DropLog tells a Logger what a Device drops: by reason, once a second at the most, and more and
// more seldom while it goes on, so that no stranger can fill a disk. It is for one goroutine.
type DropLog struct {
	// Logger gets the lines, as warnings.
	Logger *slog.Logger
	// What and Name are the attribute that says whose drops these are: "port", "tap0".
	What, Name string
	// Quiet are reasons that are not told.
	Quiet map[string]bool

	told  map[string]uint64
	pause time.Duration
	last  time.Time
}

// Look takes the counters of now, such as Stats.Drops, and tells what has come since the last line.
// What is lost on purpose (Impair) is no news.
func (l *DropLog) Look(now time.Time, drops map[string]uint64) {
	if l.pause == 0 {
		l.pause = dropLogMin
	}
	if !l.last.IsZero() && now.Sub(l.last) < l.pause {
		return
	}
	var news []any
	for _, why := range slices.Sorted(maps.Keys(drops)) {
		if n := drops[why] - l.told[why]; n > 0 && drops[why] > l.told[why] && !l.Quiet[why] && !onPurpose[why] {
			news = append(news, why, n)
		}
	}
	if len(news) == 0 {
		return
	}
	if !l.last.IsZero() && now.Sub(l.last) < 2*l.pause {
		l.pause = min(2*l.pause, dropLogMax)
	} else {
		l.pause = dropLogMin
	}
	l.last, l.told = now, maps.Clone(drops)
	l.Logger.Warn("frames dropped", append([]any{l.What, l.Name}, news...)...)
}

// onPurpose are the reasons of Impair.
var onPurpose = map[string]bool{
	DropRxLost.String(): true, DropTxLost.String(): true, DropRxLimit.String(): true, DropTxLimit.String(): true,
}
