package spec

import "fmt"

// nearest returns ` (nearest: "x")` for the word most like s, or "" when none is
// close: within a third of its length, at least one edit.
func nearest(s string, words []string) string {
	best, distance := "", 0
	if len(s) > 64 {
		return "" // no word is
	}
	for _, w := range words {
		d := edits(s, w)
		if d <= max(1, len(w)/3) && (best == "" || d < distance) {
			best, distance = w, d
		}
	}
	if best == "" {
		return ""
	}
	return fmt.Sprintf(" (nearest: %q)", best)
}

// edits returns the Levenshtein distance of a and b, in bytes.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
