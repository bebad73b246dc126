package config

import "net/netip"

// AccessList is an ordered list of rules: the first that matches decides, and what none matches is denied.
type AccessList struct {
	Name  string
	Rules []AccessRule
}

// AccessRule is one rule. Either Allow or Deny is set.
type AccessRule struct {
	Allow *Conditions
	Deny  *Conditions
	Marking
}

// Marking is what the connection to the server is given. The zero value gives nothing.
type Marking struct {
	Mark uint32 // bits set in the socket's mark, none of Salp's own; 0: none
	DSCP *uint8 // 0 to 63; nil: leave it
	Link string // Internet link; "": as the links' own rules say
}

// Conditions hold when every one that is given holds and none of Not does.
type Conditions struct {
	Match
	HostVerified *bool // the name in the request resolves to the address that the client dialled
	Not          Match
}

// Match is a set of conditions. Each is a list, and holds when one of its items fits; an empty list is no condition.
type Match struct {
	From        []AddressItem // the client
	To          []AddressItem // the server
	Ports       []PortRange   // of the server, as the client named it
	Method      []string
	Host        []HostItem
	Path        []Pattern
	Header      []HeaderItem
	ContentType []Pattern // of the response
	Time        []TimeSpan
	SNI         []HostItem
	ALPN        []string // protocols that a TLS client offers
	User        []string // * is every authenticated user
	Listener    []string
}

// AddressItem is a prefix, or the name of a list of prefixes.
type AddressItem struct {
	Prefix netip.Prefix
	List   string
}

// HostItem is a host name in lower case without a final dot, or the name of a list of names.
type HostItem struct {
	Name   string
	Suffix bool // every name below Name too
	List   string
}

// Pattern is a text in which * stands for any characters, or a regular expression.
type Pattern struct {
	Text   string
	Regexp bool
}

// HeaderItem is a header field by its name and what its value must be like.
type HeaderItem struct {
	Name  string
	Value Pattern
}

// TimeSpan is a part of the week. One that ends before it begins goes on into the next day.
type TimeSpan struct {
	Days     uint8 // bit 0 is Sunday
	From, To int   // minutes from midnight; To is not included, and 24:00 is 1440
	Zone     string
}

// List is a list in a file, for access rules to name as list:NAME. Either Names or Addresses is set.
type List struct {
	Name      string
	Names     string // a file of host names
	Addresses string // a file of addresses and prefixes
}

// AccessList returns the access list with that name, or nil.
func (c *Config) AccessList(name string) *AccessList {
	for _, a := range c.Access {
		if a.Name == name {
			return a
		}
	}
	return nil
}

// List returns the list with that name, or nil.
func (c *Config) List(name string) *List {
	for _, l := range c.Lists {
		if l.Name == name {
			return l
		}
	}
	return nil
}
