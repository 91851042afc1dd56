//! Certificates for tests, made once by openssl(1): nothing trusts them, and their keys are no secret.

/// An authority, valid until 2051.
pub(crate) const CA: &str = "\
-----BEGIN CERTIFICATE-----
MIIBSDCB76ADAgECAgEBMAoGCCqGSM49BAMCMBMxETAPBgNVBAMMCHBsYW50LWNh
MCAXDTI2MDEwMTAwMDAwMFoYDzIwNTEwNTA2MDcwODA5WjATMREwDwYDVQQDDAhw
bGFudC1jYTBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABHtOw0u9gGdYxDXPZNN4
y0WqH++QL85FnO4IAXQo2Ah/mSVPl/r58anviKZZN56eqtwE+i8HKG7g66vCJr78
YLqjMjAwMA8GA1UdEwEB/wQFMAMBAf8wHQYDVR0OBBYEFNXNvrL4Szpzio/jwYV4
uwJaDZ1MMAoGCCqGSM49BAMCA0gAMEUCIQCECj9xwMh5YqqAgAuAKXT0U5FWOVvP
hqmBaUFaEjNpQgIgMfE+vVJ9bm4MryvCuc/8qekaEKEg6U+iZjLJoQDDVJg=
-----END CERTIFICATE-----
";

/// The certificate that it issued to `gw-7`, valid until 2049.
pub(crate) const CERT: &str = "\
-----BEGIN CERTIFICATE-----
MIIBcjCCARmgAwIBAgIBAjAKBggqhkjOPQQDAjATMREwDwYDVQQDDAhwbGFudC1j
YTAeFw0yNjAxMDEwMDAwMDBaFw00OTAxMDEwMDAwMDBaMA8xDTALBgNVBAMMBGd3
LTcwWTATBgcqhkjOPQIBBggqhkjOPQMBBwNCAARtyB0jMz61wxlpJI5GRvYM8B4K
9mnFi4CA2MdwDviFKOdOqwz4+BTc/QxU/vDAjl+73o1Tjn9K+27E6WvwtsSOo2Iw
YDAJBgNVHRMEAjAAMBMGA1UdJQQMMAoGCCsGAQUFBwMCMB0GA1UdDgQWBBQW3izQ
rwdSViIj9gzZFyfnxAd3CjAfBgNVHSMEGDAWgBTVzb6y+Es6c4qP48GFeLsCWg2d
TDAKBggqhkjOPQQDAgNHADBEAiBrnb4LJPqNQz9yffh/XqC4g+fdWJjewnkoixo3
o80a6gIgIngoCXp9EZOh80vyXdr01XxwJ0qpP4plvGKIjPur0cQ=
-----END CERTIFICATE-----
";

/// Its key.
pub(crate) const KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQgenv+Tufu3VZR/0GK
9CMahfI0+dORHYF6b0uLh1UXE2ehRANCAARtyB0jMz61wxlpJI5GRvYM8B4K9mnF
i4CA2MdwDviFKOdOqwz4+BTc/QxU/vDAjl+73o1Tjn9K+27E6WvwtsSO
-----END PRIVATE KEY-----
";

/// Another key.
pub(crate) const OTHER_KEY: &str = "\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg5cSK3yuIfi7EzeXT
6L6BrEgzkQ9sXEkl/l9rDQNtyn6hRANCAARkxiW/yuuk6R9BS9B7hRalDYKyCcec
4Ovis0AnPtae8JTfyap4r5QMKBkJPiSzhps1FWYiJITIErw8jU5yZ1kw
-----END PRIVATE KEY-----
";

/// A key that signs policies: its public half.
pub(crate) const POLICY_KEY: &str = "\
-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAwo2OC1gpY1eUZy4D4BkreZbvPs9D4mDu0OFc+9jOK14=
-----END PUBLIC KEY-----
";

/// The same as `[policy] public_keys` may have it.
pub(crate) const POLICY_KEY_LITERAL: &str = "ed25519:wo2OC1gpY1eUZy4D4BkreZbvPs9D4mDu0OFc+9jOK14=";
