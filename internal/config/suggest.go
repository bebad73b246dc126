package config

import "strings"

// nearest returns the key that was most likely meant by word, or "".
func nearest(word string, entries []entry) string {
	const longest = 40 // nothing longer is a misspelt key, and the search stays cheap
	if len(word) > longest {
		return ""
	}
	word = plain(word)
	best, least := "", max(1, len(word)/3)
	for _, e := range entries {
		for _, other := range e.aka {
			if plain(other) == word {
				return e.key
			}
		}
		if d := distance(word, plain(e.key)); d <= least && d < len(e.key) {
			best, least = e.key, d-1
		}
	}
	return best
}

// belongs returns where in the table a key has its place, as in listeners.NAME.intercept, or "".
func belongs(entries []entry, prefix, word string) string {
	for _, e := range entries {
		at := prefix + e.key
		keys := e.shape.keys
		if e.shape.name != "" {
			at += "." + e.shape.name
		}
		if e.shape.item != nil {
			keys, at = e.shape.item.keys, at+"[]"
		}
		for _, k := range keys {
			if k.key == word {
				return at
			}
		}
		if found := belongs(keys, at+".", word); found != "" {
			return found
		}
	}
	return ""
}

// plain removes what differs between spelling habits: case, hyphens, underscores.
func plain(word string) string {
	return strings.NewReplacer("-", "", "_", "").Replace(strings.ToLower(word))
}

// distance is the Damerau-Levenshtein distance in bytes (optimal string alignment): insertions, deletions, substitutions and
// swaps of neighbours.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		rows[i][0] = i
	}
	for j := range rows[0] {
		rows[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			d := min(rows[i-1][j]+1, rows[i][j-1]+1, rows[i-1][j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d = min(d, rows[i-2][j-2]+1)
			}
			rows[i][j] = d
		}
	}
	return rows[len(a)][len(b)]
}
