package nft

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"salp/internal/kernel/wire"
)

// lacking names the kernel option behind an expression, and another way where there is one.
var lacking = map[string]string{
	"tproxy":    "this kernel lacks NFT_TPROXY (CONFIG_NFT_TPROXY): use intercept.method: redirect, or a kernel that has it",
	"socket":    "this kernel lacks NFT_SOCKET (CONFIG_NFT_SOCKET): use intercept.method: redirect with source: proxy, or a kernel that has it",
	"fib":       "this kernel lacks NFT_FIB_INET (CONFIG_NFT_FIB_INET)",
	"ct":        "this kernel lacks NFT_CT (CONFIG_NFT_CT)",
	"redir":     "this kernel lacks NFT_REDIR (CONFIG_NFT_REDIR): use intercept.method: tproxy",
	"reject":    "this kernel lacks NFT_REJECT_INET (CONFIG_NFT_REJECT_INET)",
	"nat":       "this kernel lacks NFT_NAT (CONFIG_NFT_NAT): via: kernel and links need it",
	"masq":      "this kernel lacks NFT_MASQ (CONFIG_NFT_MASQ): via: kernel with source: proxy and links need it",
	"numgen":    "this kernel lacks NFT_NUMGEN (CONFIG_NFT_NUMGEN): use balance: source, or a kernel that has it",
	"hash":      "this kernel lacks NFT_HASH (CONFIG_NFT_HASH): use balance: random, or a kernel that has it",
	"limit":     "this kernel lacks NFT_LIMIT (CONFIG_NFT_LIMIT): leave limits.rate and limits.client_rate out",
	"connlimit": "this kernel lacks NFT_CONNLIMIT (CONFIG_NFT_CONNLIMIT)",
	"rt":        "this kernel is older than Salp supports (Linux 5.15)",
	"exthdr":    "this kernel is older than Salp supports (Linux 5.15)",
	"counter":   "this kernel is older than Salp supports (Linux 5.15)",
}

// explain adds the user's way out to the kernel's refusals.
func explain(err error) error {
	if err == nil {
		return nil
	}
	var list interface{ Unwrap() []error }
	if errors.As(err, &list) {
		for _, e := range list.Unwrap() {
			explainOne(e)
		}
		return err
	}
	explainOne(err)
	return err
}

func explainOne(err error) {
	var e *wire.Error
	if !errors.As(err, &e) {
		return
	}
	switch {
	case e.Errno == unix.ENOENT && lacking[e.Attribute] != "":
		e.Hint = lacking[e.Attribute]
	case e.Errno == unix.ENOENT && strings.HasPrefix(e.Object, "nft rule") && strings.Contains(e.Object, "tproxy"):
		e.Hint = lacking["tproxy"]
	case e.Errno == unix.EOPNOTSUPP && e.Operation == "add" && strings.HasPrefix(e.Object, "nft table"):
		e.Hint = "this kernel has no tables with an owner: Salp needs Linux 5.12 or newer with nf_tables"
	case e.Errno == unix.EOPNOTSUPP || e.Errno == unix.EINVAL && strings.HasPrefix(e.Object, "nft"):
		e.Hint = "this kernel does not support it in the inet family: `salp features` tells what is missing"
	case e.Errno == unix.EPERM && strings.HasPrefix(e.Object, "nft table"):
		e.Hint = "another process owns a table of this name, or CAP_NET_ADMIN is missing"
	}
}
