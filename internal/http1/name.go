package http1

// Name is a field name that the codec or its callers have to know; 0 is any other.
type Name uint8

// The names.
const (
	Other Name = iota
	Host
	Connection
	ContentLength
	TransferEncoding
	Upgrade
	Expect
	KeepAlive
	ProxyConnection
	ProxyAuthorization
	TE
	Trailer
	Via
	XForwardedFor
	XForwardedProto
	Forwarded
	ContentType
	Location
	names // how many there are
)

var spelled = [names]string{
	Host: "host", Connection: "connection", ContentLength: "content-length", TransferEncoding: "transfer-encoding", Upgrade: "upgrade",
	Expect: "expect", KeepAlive: "keep-alive", ProxyConnection: "proxy-connection", ProxyAuthorization: "proxy-authorization", TE: "te",
	Trailer: "trailer", Via: "via", XForwardedFor: "x-forwarded-for", XForwardedProto: "x-forwarded-proto", Forwarded: "forwarded",
	ContentType: "content-type", Location: "location",
}

// byLength are the names by their length, so that most others are told apart without comparing.
var byLength = func() (t [20][]Name) {
	for n := Host; n < names; n++ {
		t[len(spelled[n])] = append(t[len(spelled[n])], n)
	}
	return t
}()

func known(b []byte) Name {
	if len(b) >= len(byLength) || len(b) == 0 {
		return Other
	}
	for _, n := range byLength[len(b)] {
		if b[0]|0x20 == spelled[n][0] && equalFold(b, spelled[n]) {
			return n
		}
	}
	return Other
}
