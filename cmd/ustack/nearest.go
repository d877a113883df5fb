package main

import "strings"

// nearest returns the candidate that word was most likely meant to be, or "" when
// none is close: one edit for every three characters, else a common beginning,
// else three of four letters in common, in order, and the first one.
func nearest(word string, candidates []string) string {
	if word == "" || len(word) > 64 {
		return ""
	}
	word = strings.ToLower(word)
	closest := func(ok func(c string, edits int) bool) string {
		best, least := "", 0
		for _, c := range candidates {
			if d := editDistance(word, strings.ToLower(c)); ok(c, d) && (best == "" || d < least) {
				best, least = c, d
			}
		}
		return best
	}
	for _, ok := range []func(string, int) bool{
		func(_ string, edits int) bool { return edits <= max(1, len(word)/3) },
		func(c string, _ int) bool {
			return len(word) > 1 && strings.HasPrefix(c, word) || len(c) > 2 && strings.HasPrefix(word, c)
		},
		func(c string, _ int) bool {
			return c[0] == word[0] && 4*commonLetters(word, c) >= 3*max(3, min(len(word), len(c)))
		},
	} {
		if best := closest(ok); best != "" {
			return best
		}
	}
	return ""
}

// editDistance is the number of single-byte insertions, deletions, replacements
// and swaps of neighbours that turn a into b (optimal string alignment).
func editDistance(a, b string) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}

// commonLetters is the length of the longest common subsequence of a and b.
func commonLetters(a, b string) int {
	prev, cur := make([]int, len(b)+1), make([]int, len(b)+1)
	for i := range len(a) {
		for j := range len(b) {
			if a[i] == b[j] {
				cur[j+1] = prev[j] + 1
			} else {
				cur[j+1] = max(prev[j+1], cur[j])
			}
		}
		prev, cur = cur, prev
	}
	return prev[len(b)]
}
