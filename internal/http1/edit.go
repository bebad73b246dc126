package http1

// Edit is one change to a head: the bytes at Span become With.
type Edit struct {
	Span
	With []byte
}

// Edits are the changes to a head, in the order of their places, which do not overlap. A head without any is passed on as it came.
type Edits struct{ list []Edit }

// Reset forgets all changes and keeps the room for new ones.
func (e *Edits) Reset() { e.list = e.list[:0] }

// Empty says that nothing is changed.
func (e *Edits) Empty() bool { return len(e.list) == 0 }

// Replace puts with in the place of what is at s. The bytes are not copied before Append. Changes at the same place keep their order.
func (e *Edits) Replace(s Span, with []byte) {
	e.list = append(e.list, Edit{s, with})
	for i := len(e.list) - 1; i > 0 && e.list[i-1].Start > s.Start; i-- {
		e.list[i-1], e.list[i] = e.list[i], e.list[i-1]
	}
}

// Remove takes out what is at s.
func (e *Edits) Remove(s Span) { e.Replace(s, nil) }

// Insert puts with before the byte at that place.
func (e *Edits) Insert(at int32, with []byte) { e.Replace(Span{at, at}, with) }

// Size is how long raw is with the changes made.
func (e *Edits) Size(raw []byte) int {
	n := len(raw)
	for i := range e.list {
		n += len(e.list[i].With) - e.list[i].Len()
	}
	return n
}

// Append appends raw with the changes made to dst. What is appended from must not overlap the room behind dst.
func (e *Edits) Append(dst, raw []byte) []byte {
	at := int32(0)
	for i := range e.list {
		edit := &e.list[i]
		dst = append(dst, raw[at:edit.Start]...)
		dst = append(dst, edit.With...)
		at = edit.End
	}
	return append(dst, raw[at:]...)
}

// Touches says whether something at that place is changed already.
func (e *Edits) Touches(s Span) bool {
	for i := range e.list {
		if e.list[i].Start < s.End && s.Start < e.list[i].End {
			return true
		}
	}
	return false
}
