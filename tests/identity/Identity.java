// Works out event ids. Each line of standard input: a body in Base64, and a key or nothing.
// Prints the message id in Base64, the event id and the canonical content in Base64 for each. Run: java Identity.java

import static java.nio.charset.StandardCharsets.UTF_8;

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Base64;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.TreeMap;

public class Identity {
    public static void main(String[] args) throws Exception {
        var in = new BufferedReader(new InputStreamReader(System.in, UTF_8));
        var out = new PrintStream(System.out, true, UTF_8);
        for (String line; (line = in.readLine()) != null; ) {
            String[] parts = line.split(" ", 2);
            out.println(identify(new String(Base64.getDecoder().decode(parts[0]), UTF_8), parts.length > 1 ? parts[1] : ""));
        }
    }

    static String identify(String body, String key) throws Exception {
        Object message = new Reader(body).document();
        var content = new StringBuilder();
        write(message, content);
        Object sender = ((Map<?, ?>) ((Map<?, ?>) ((Map<?, ?>) message).get("header")).get("sender")).get("id");
        String id = ((Map<?, ?>) message).get("id") instanceof String given && !given.isBlank() ? given : digits(content.toString());
        String event = key.isBlank() ? digits(sender + "\0" + id + "\0" + content) : digits(sender + "\0\0" + key);
        return base64(id) + " " + event + " " + base64(content.toString());
    }

    static String digits(String text) throws Exception {
        byte[] hash = MessageDigest.getInstance("SHA-256").digest(text.getBytes(UTF_8));
        return HexFormat.of().formatHex(Arrays.copyOf(hash, 12));
    }

    static String base64(String text) {
        return Base64.getEncoder().encodeToString(text.getBytes(UTF_8));
    }

    record Literal(String spelled) {} // a number, true, false or null, as it was sent

    static void write(Object value, StringBuilder out) {
        if (value instanceof Literal literal) {
            out.append(literal.spelled());
        } else if (value instanceof String text) {
            writeText(text, out);
        } else if (value instanceof List<?> list) {
            String before = "[";
            for (Object item : list) {
                out.append(before);
                write(item, out);
                before = ",";
            }
            out.append(list.isEmpty() ? "[]" : "]");
        } else {
            String before = "{";
            for (var member : ((Map<?, ?>) value).entrySet()) {
                out.append(before);
                writeText((String) member.getKey(), out);
                out.append(':');
                write(member.getValue(), out);
                before = ",";
            }
            out.append(before.equals("{") ? "{}" : "}");
        }
    }

    static void writeText(String text, StringBuilder out) {
        out.append('"');
        for (char c : text.toCharArray()) {
            int place = "\"\\\b\t\n\f\r".indexOf(c);
            if (place >= 0) {
                out.append('\\').append("\"\\btnfr".charAt(place));
            } else if (c < 0x20) {
                out.append(String.format("\\u%04x", (int) c));
            } else {
                out.append(c);
            }
        }
        out.append('"');
    }

    // String.compareTo compares UTF-16 units, which puts U+10000 before U+FFFF; the order is that of code points.
    static int byCodePoint(String a, String b) {
        return Arrays.compare(a.codePoints().toArray(), b.codePoints().toArray());
    }

    // Reads JSON that is known to be valid.
    static final class Reader {
        private final String text;
        private int at;

        Reader(String text) {
            this.text = text;
        }

        Object document() {
            at = text.startsWith("\ufeff") ? 1 : 0;
            return value();
        }

        private char next() {
            while (Character.isWhitespace(text.charAt(at))) {
                at++;
            }
            return text.charAt(at);
        }

        private Object value() {
            switch (next()) {
                case '{': {
                    var members = new TreeMap<String, Object>(Identity::byCodePoint);
                    for (at++; next() != '}'; skipComma()) {
                        next();
                        String name = string();
                        next();
                        at++; // the colon
                        members.put(name, value());
                    }
                    at++;
                    return members;
                }
                case '[': {
                    var items = new ArrayList<>();
                    for (at++; next() != ']'; skipComma()) {
                        items.add(value());
                    }
                    at++;
                    return items;
                }
                case '"':
                    return string();
                default: {
                    int start = at;
                    while (at < text.length() && ",]} \t\r\n".indexOf(text.charAt(at)) < 0) {
                        at++;
                    }
                    return new Literal(text.substring(start, at));
                }
            }
        }

        private void skipComma() {
            if (next() == ',') {
                at++;
            }
        }

        private String string() {
            var out = new StringBuilder();
            for (at++; text.charAt(at) != '"'; at++) {
                char c = text.charAt(at);
                if (c != '\\') {
                    out.append(c);
                } else if (text.charAt(++at) == 'u') {
                    out.append((char) Integer.parseInt(text.substring(at + 1, at + 5), 16));
                    at += 4;
                } else {
                    out.append("\"\\/\b\t\n\f\r".charAt("\"\\/btnfr".indexOf(text.charAt(at))));
                }
            }
            at++;
            return out.toString();
        }
    }
}
