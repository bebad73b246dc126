package config

import (
	"net/url"
	"strings"
)

var tlsKeys = mapping(nil,
	prop(entry{key: "certificates", absent: "those that `acme` gets",
		doc:     "Certificates with their keys. A client gets the first that is valid for the name it asks for, else the first of the list.",
		watch:   "The files are read again when they change, without a restart. A relative path counts from the directory of the configuration.",
		example: "certificates: [{certificate: /etc/salp/www.pem, key: /etc/salp/www.key}]",
		aka:     []string{"certs", "certificate", "crt"},
	}, list("certificates", certificateKeys, maxCertificates), func(t *TLS) *[]Certificate { return &t.Certificates }),
	prop(entry{key: "acme", absent: "none",
		doc:     "Gets certificates from an authority by ACME (RFC 8555) and renews them.",
		watch:   "The authority must reach this listener as port 443 of each name (tls-alpn-01).",
		example: "acme: {names: [www.example.com], email: admin@example}",
		aka:     []string{"letsencrypt", "autocert"},
	}, optional(acmeKeys), func(t *TLS) **ACME { return &t.ACME }),
	prop(entry{key: "min_version", def: `"1.2"`,
		doc:     "The oldest version of TLS that is spoken: `1.2` or `1.3`.",
		example: `min_version: "1.3"`,
	}, enum(TLS12, TLS13), func(t *TLS) *TLSVersion { return &t.MinVersion }),
	prop(entry{key: "http2", def: "true",
		doc:     "Offers HTTP/2 to clients (by ALPN), beside HTTP/1.1. To clients of a proxy HTTP/1.1 alone is offered.",
		example: "http2: false",
		aka:     []string{"h2"},
	}, boolean(), func(t *TLS) *bool { return &t.HTTP2 }),
)

var certificateKeys = mapping(nil,
	prop(entry{key: "certificate", required: true,
		doc:     "A PEM file with the certificate and those between it and the root.",
		example: "certificate: /etc/salp/www.pem",
		aka:     []string{"cert", "chain", "file"},
	}, fileName("a PEM file"), func(c *Certificate) *string { return &c.Certificate }),
	prop(entry{key: "key", required: true,
		doc:     "A PEM file with the private key. Only root needs to be able to read it: the keeper reads it and hands it to the worker.",
		example: "key: /etc/salp/www.key",
	}, fileName("a PEM file"), func(c *Certificate) *string { return &c.Key }),
)

var acmeKeys = mapping(nil,
	prop(entry{key: "names", required: true,
		doc:     "The names to get certificates for.",
		example: "names: [www.example.com, example.com]",
		aka:     []string{"domains", "hosts"},
	}, list("host names", acmeName(), maxACMENames), func(a *ACME) *[]string { return &a.Names }),
	prop(entry{key: "email", absent: "none",
		doc:     "Where the authority writes to when a certificate is about to expire.",
		example: "email: admin@example",
	}, text("address of mail", 254), func(a *ACME) *string { return &a.Email }),
	prop(entry{key: "directory", def: "https://acme-v02.api.letsencrypt.org/directory",
		doc:     "The URL of the authority's directory. To use one is to agree to its terms of service.",
		example: "directory: https://acme-staging-v02.api.letsencrypt.org/directory",
		aka:     []string{"ca", "server"},
	}, httpsURL(), func(a *ACME) *string { return &a.Directory }),
	prop(entry{key: "authority", absent: "the roots of the system",
		doc:     "A PEM file with the roots that the directory's own certificate is checked by, for an authority of your own.",
		example: "authority: /etc/salp/ca.pem",
	}, fileName("a PEM file"), func(a *ACME) *string { return &a.Authority }),
	prop(entry{key: "state", def: "/var/lib/salp/acme",
		doc:     "The directory for account keys and certificates. The keeper makes it, readable for the worker's user alone.",
		watch:   "Authorities bound how many certificates they issue: keep this directory.",
		example: "state: /var/lib/salp/acme",
		aka:     []string{"storage"},
	}, fileName("a directory"), func(a *ACME) *string { return &a.State }),
)

func acmeName() kind[string] {
	return word("host name", map[string]any{"pattern": `^\S+$`}, func(s string) (string, string) {
		_, problem, hint := hostName(s, s)
		if problem == "" && (s != strings.ToLower(s) || !strings.Contains(s, ".")) {
			return "is not a name that an authority certifies", "write a whole name in lower case, as in  www.example.com"
		}
		return problem, hint
	})
}

func httpsURL() kind[string] {
	return word("URL", map[string]any{"pattern": "^https://"}, func(s string) (string, string) {
		if u, err := url.Parse(s); err != nil || u.Scheme != "https" || u.Host == "" {
			return "is not the URL of a directory", "write it as in  https://acme-v02.api.letsencrypt.org/directory"
		}
		return "", ""
	})
}

var upstreamTLSKeys = mapping(map[string]any{"dependentRequired": map[string]any{"certificate": []string{"key"}, "key": []string{"certificate"}}},
	prop(entry{key: "verify", def: "true",
		doc:     "Whether the server must show a certificate that is valid for its name.",
		watch:   "Without it anyone on the way can be the server.",
		example: "verify: false",
	}, boolean(), func(u *UpstreamTLS) *bool { return &u.Verify }),
	prop(entry{key: "authorities", absent: "the roots of the system",
		doc:     "A PEM file with the roots that servers' certificates are checked by.",
		example: "authorities: /etc/salp/ca.pem",
		aka:     []string{"ca", "roots", "cafile", "ca_file"},
	}, fileName("a PEM file"), func(u *UpstreamTLS) *string { return &u.Authorities }),
	prop(entry{key: "name", absent: "the request's host",
		doc:     "The name that the server is asked for (SNI) and that its certificate must have.",
		example: "name: origin.example",
		aka:     []string{"sni", "server_name"},
	}, rewriteHost(), func(u *UpstreamTLS) *string { return &u.Name }),
	prop(entry{key: "certificate", absent: "none",
		doc:     "A PEM file with a certificate that Salp shows to servers that ask for one.",
		example: "certificate: /etc/salp/client.pem",
	}, fileName("a PEM file"), func(u *UpstreamTLS) *string { return &u.Certificate }),
	prop(entry{key: "key", absent: "none",
		doc:     "The key of `certificate`, in PEM.",
		example: "key: /etc/salp/client.key",
	}, fileName("a PEM file"), func(u *UpstreamTLS) *string { return &u.Key }),
	prop(entry{key: "min_version", def: `"1.2"`,
		doc:     "The oldest version of TLS that is spoken with servers: `1.2` or `1.3`.",
		example: `min_version: "1.3"`,
	}, enum(TLS12, TLS13), func(u *UpstreamTLS) *TLSVersion { return &u.MinVersion }),
)
