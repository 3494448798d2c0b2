"""Why a TLS connection did not come about, in words."""

from __future__ import annotations

import ssl

# Codes of OpenSSL's verification (X509_V_ERR_*, x509_vfy.h).
_NOT_YET_VALID, _EXPIRED = 9, 10
_SELF_SIGNED, _SELF_SIGNED_IN_CHAIN, _NO_ISSUER, _NO_FIRST = 18, 19, 20, 21
_WRONG_HOST, _WRONG_IP = 62, 64

_BY_CODE = {
    _NOT_YET_VALID: "it is not valid yet: compare the clocks of the two machines.",
    _EXPIRED: "it has expired: renew it on the node.",
    _SELF_SIGNED: "it is signed by itself: enter it as the CA certificate.",
    _SELF_SIGNED_IN_CHAIN: "it is signed by a CA of your own: enter that CA's certificate.",
    _NO_ISSUER: "it is signed by a CA that is not known here: enter that CA's certificate.",
    _NO_FIRST: "it is signed by a CA that is not known here: enter that CA's certificate.",
    _WRONG_HOST: "it is made out to another host name: use the name in the certificate as the address.",
    _WRONG_IP: "it is not made out to this IP address: use the host name in the certificate as the address.",
}


def why_refused(url: str, error: BaseException, *, own_ca: bool) -> str:
    """Return one sentence that tells why the TLS connection to Qdrant at `url` failed, and what to do.

    `error` is what the HTTP library raised, whatever it is wrapped in; `own_ca` tells whether a CA was entered.
    """
    cause = innermost(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        why = _BY_CODE.get(cause.verify_code, f"{cause.verify_message}.")
        if own_ca and cause.verify_code in (_SELF_SIGNED, _SELF_SIGNED_IN_CHAIN, _NO_ISSUER, _NO_FIRST):
            why = "it is not signed by the CA certificate that was entered: enter the one that signed it."
        return f"The TLS certificate of Qdrant at {url} was not accepted; {why}"
    if isinstance(cause, ssl.SSLError) and cause.reason in ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE"):
        return f"What answers at {url} does not speak TLS: write http:// if it is meant to be reached without."
    if isinstance(cause, ssl.SSLError) and "CERTIFICATE_REQUIRED" in (cause.reason or ""):
        return f"Qdrant at {url} asks for a client certificate, which this product cannot show."
    return f"The TLS connection to Qdrant at {url} failed: check its certificate and the CA that signed it."


def innermost(error: BaseException) -> BaseException:
    """Return the ssl.SSLError inside what requests and urllib3 have wrapped around it; else what lies innermost."""
    seen: set[int] = set()
    while id(error) not in seen and not isinstance(error, ssl.SSLError):
        seen.add(id(error))
        inside = next((one for one in error.args if isinstance(one, BaseException)), None)
        wrapped = getattr(error, "reason", None) or inside or error.__cause__ or error.__context__
        if not isinstance(wrapped, BaseException):
            break
        error = wrapped
    return error
