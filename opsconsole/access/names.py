"""Names that a reader of the audit trail could take for one another.

Pure. A name has forms; two names with one in common are taken for each other. The tables hold what
looks like an ASCII letter or digit, from Unicode's confusables (UTS 39) for the scripts in which a
whole name can be imitated. What is left of a name is for comparing only, never shown.
"""

from __future__ import annotations

from unicodedata import normalize

# The console itself acts under this name.
CONSOLE_NAME = "console"

LOOKS_LIKE = (
    # Latin
    "Ꝛ2 Ƨ2 Ɜ3 Ȝ3 Ʒ3 Ꝫ3 Ƽ5 ȣ8 Ȣ8 Ꝯ9 ɑa Ƅb ꞴB ᴄc ꬲe ꬵf ꞙf ẝf ꞘF ɡg ᶃg ƍg ıi ɪi ɩi ꞲJ Ɩl ǀl ᴏo ᴑo ꬽo "
    "ꭇr ꭈr ƦR ꜱs ƽs ꞟu ᴜu ꭎu ꭒu ʋu ᴠv ɯw ᴡw ꞳX ɣy ᶌy ʏy ỿy ꭚy ᴢz "
    # Greek
    "αa ΑA ΒB ΕE ϜF ΗH ιi ϳj ͿJ ΚK κk Ιl ΜM ϺM ΝN οo σo ΟO ρp ΡP ᴦr ΤT υu νv ΧX γy ΥY ΖZ "
    # Cyrillic, some of it as Greek
    "Ꙅ2 З3 Ӡ3 б6 аa АA Ьb ВB сc СC ԁd еe ҽe ЕE ԌG һh НH іi ꙇi ӏi јj ЈJ КK кk Іl Ӏl МM оo ОO рp РP "
    "ԛq гr ѕs ЅS ТT ѵv ѴV ѡw ԝw ԜW хx ХX уy үy УY ҮY ГΓ ПΠ пπ ФΦ фφ ѰΨ ѱψ ЛΛ ꙍω "
    # Armenian
    "քf ցg հh ոn ռn օo ՕO գq զq ՏS սu ՍU աw "
    # Cherokee
    "Ꮞ4 Ꮾ6 ᎪA Ꮟb ᏴB ꮯc ᏟC Ꮷd ᎠD ᎬE ᏀG ᏳG Ꮒh ᎻH ꭵi Ꭵi ᎫJ ᏦK ᏞL ᎷM ᏢP ꮁr ᎡR ᏒR ꮪs ᏕS ᏚS ᎢT ꮩv ᏙV "
    "ꮃw ᎳW ᏔW ᎩY ᎽY ꮓz ᏃZ "
    # Lisu
    "ꓮA ꓐB ꓚC ꓒd ꓓD ꓰE ꓝF ꓖG ꓧH ꓙJ ꓗK ꓲl ꓡL ꓟM ꓠN ꓳO ꓑP ꓣR ꓢS ꓔT ꓴU ꓦV ꓪW ꓫX ꓬY ꓜZ"
)
TO_LATIN = str.maketrans({pair[0]: pair[1] for pair in LOOKS_LIKE.split()})
# Within ASCII, as it is written: a capital I is an l, a small i is none.
SAME_SHAPE = str.maketrans("I10O", "lloo")


def forms_of(name: str) -> frozenset[str]:
    """What a name is taken for: itself and its look in ASCII, in any case, and by its shapes."""
    latin = _in_latin(name)
    by_shape = _in_latin_folded(latin.translate(SAME_SHAPE)).replace("rn", "m")
    return frozenset({folded(name), _in_latin_folded(latin), by_shape})


def taken_for(name: str, others: set[str]) -> str | None:
    """The first of the other names, in order, that this one could be taken for; None for none."""
    forms = forms_of(name)
    return next((other for other in sorted(others) if forms & forms_of(other)), None)


def _in_latin(text: str) -> str:
    """Marks are taken off for the look-up, and put on again what they stood on."""
    return normalize("NFKC", normalize("NFKD", text).translate(TO_LATIN))


def folded(text: str) -> str:
    """The text in any case and any way to encode it."""
    return normalize("NFKC", normalize("NFKC", text).casefold())


def _in_latin_folded(text: str) -> str:
    """The same in ASCII; what only a small letter looks like is found after folding."""
    return folded(_in_latin(folded(text)))
