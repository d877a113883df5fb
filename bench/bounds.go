package main

import (
	_ "embed"
	"fmt"

	"github.com/ustack/ustack/bench/report"
)

// boundsText says what bounds the figures that may be missed, see report.ParseBounds.
//
//go:embed bounds.txt
var boundsText string

func loadBounds() ([]report.Bound, error) {
	b, err := report.ParseBounds(boundsText)
	if err != nil {
		return nil, fmt.Errorf("bench/bounds.txt: %w", err)
	}
	return b, nil
}
