import com.sun.net.httpserver.Headers;
import com.sun.net.httpserver.HttpExchange;
import com.sun.net.httpserver.HttpServer;
import java.io.IOException;
import java.io.InputStream;
import java.net.HttpURLConnection;
import java.net.InetSocketAddress;
import java.net.URL;
import java.nio.charset.StandardCharsets;
import java.util.List;
import java.util.concurrent.Executors;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Orders: GET /orders/N asks stock for /stock/N.
 *
 * <p>The JDK's own HTTP server with a pool of threads, one request per thread at a time. Nothing in
 * it knows about tracing, unless COPY_TRACE_HEADERS=1: then it does what many meshed apps do by
 * hand, and copies the trace headers from the request that it serves to the one that it sends.
 */
public final class Orders {
    private static final Pattern PATH = Pattern.compile("/orders/([0-9]{1,9})");
    private static final int THREADS = 64;
    private static final int BACKLOG = 256;
    private static final int TIMEOUT_MILLIS = 10_000;
    private static final List<String> TRACE_HEADERS =
            List.of("traceparent", "tracestate", "b3", "x-b3-traceid", "x-b3-spanid",
                    "x-b3-parentspanid", "x-b3-sampled", "x-b3-flags", "x-request-id");

    private final String stock = environment("STOCK_URL", "http://stock:8080");
    private final boolean copyTraceHeaders = environment("COPY_TRACE_HEADERS", "0").equals("1");

    public static void main(String[] arguments) throws IOException {
        int port = Integer.parseInt(environment("PORT", "8080"));
        HttpServer server = HttpServer.create(new InetSocketAddress("0.0.0.0", port), BACKLOG);
        server.createContext("/", new Orders()::serve);
        server.setExecutor(Executors.newFixedThreadPool(THREADS));
        server.start();
    }

    private void serve(HttpExchange exchange) throws IOException {
        try (exchange) {
            Matcher path = PATH.matcher(exchange.getRequestURI().getPath());
            if (!path.matches()) {
                answer(exchange, 404, "{\"error\": \"no such order\"}");
                return;
            }
            int number = Integer.parseInt(path.group(1));
            try {
                Thread.sleep(number % 4 * 2);
                String item = getStock(number, exchange.getRequestHeaders());
                answer(exchange, 200, "{\"order\": " + number + ", \"stock\": " + item
                        + ", \"lines\": \"" + "-".repeat(number % 48) + "\"}");
            } catch (IOException error) {
                answer(exchange, 502, "{\"error\": \"stock did not answer\"}");
            } catch (InterruptedException stopped) {
                Thread.currentThread().interrupt();
            }
        }
    }

    private String getStock(int number, Headers received) throws IOException {
        URL url = new URL(stock + "/stock/" + number);
        HttpURLConnection connection = (HttpURLConnection) url.openConnection();
        connection.setConnectTimeout(TIMEOUT_MILLIS);
        connection.setReadTimeout(TIMEOUT_MILLIS);
        if (copyTraceHeaders) {
            for (String name : TRACE_HEADERS) {
                for (String value : received.getOrDefault(headerKey(name), List.of())) {
                    connection.addRequestProperty(name, value);
                }
            }
        }
        if (connection.getResponseCode() != 200) {
            throw new IOException("stock answered " + connection.getResponseCode());
        }
        // Read to its end, so that the connection is kept for the next request.
        try (InputStream body = connection.getInputStream()) {
            return new String(body.readAllBytes(), StandardCharsets.UTF_8);
        }
    }

    /** The form in which com.sun.net.httpserver stores a header's name: X-request-id. */
    private static String headerKey(String name) {
        return Character.toUpperCase(name.charAt(0)) + name.substring(1);
    }

    private static void answer(HttpExchange exchange, int status, String json) throws IOException {
        byte[] body = json.getBytes(StandardCharsets.UTF_8);
        exchange.getResponseHeaders().set("Content-Type", "application/json");
        exchange.sendResponseHeaders(status, body.length);
        exchange.getResponseBody().write(body);
    }

    private static String environment(String name, String otherwise) {
        String value = System.getenv(name);
        return value == null || value.isEmpty() ? otherwise : value;
    }
}
