package errorpage

import (
	"slices"
	"strconv"
	"strings"
)

// mostItems bounds the items of a header field that are looked at.
const mostItems = 32

// weighted is an item of Accept or Accept-Language with its weight.
type weighted struct {
	item   string // lower case, without parameters
	weight float64
}

// weigh reads a list with weights (RFC 9110 12.4.2). What it does not understand has the weight 1, or 0 when the weight itself is no number.
func weigh(field string) []weighted {
	var all []weighted
	for part := range strings.SplitSeq(field, ",") {
		if len(all) == mostItems {
			break
		}
		item, parameters, _ := strings.Cut(part, ";")
		w := weighted{strings.ToLower(strings.TrimSpace(item)), 1}
		for p := range strings.SplitSeq(parameters, ";") {
			if q, ok := strings.CutPrefix(strings.ToLower(strings.TrimSpace(p)), "q="); ok {
				w.weight, _ = strconv.ParseFloat(q, 64) // 0 when it is no number
				if !(w.weight >= 0 && w.weight <= 1) {
					w.weight = 0
				}
			}
		}
		if w.item != "" {
			all = append(all, w)
		}
	}
	return all
}

// preferred returns the language of those there are that the field asks for most, or the first (RFC 4647 3.4).
func preferred(field string, have []string) string {
	best, weight := have[0], 0.0
	for _, w := range weigh(field) {
		language, _, _ := strings.Cut(w.item, "-")
		if w.weight > weight && slices.Contains(have, language) {
			best, weight = language, w.weight
		}
	}
	return best
}

// wantsJSON says whether a client would rather have JSON than HTML. One that takes anything gets HTML.
func wantsJSON(accept string) bool {
	json, page := 0.0, 0.0
	for _, w := range weigh(accept) {
		switch w.item {
		case "application/problem+json", "application/json":
			json = max(json, w.weight)
		case "text/html", "application/xhtml+xml":
			page = max(page, w.weight)
		}
	}
	return json > page
}
