//go:build !race

package link

const poolForgets = false
