<?php

/** The helper `websocket()`, in our namespace and, unless somebody else has it, globally. */

declare(strict_types=1);

namespace Plugsocket {
    if (! function_exists('Plugsocket\websocket')) {
        /** The sender that `Websocket::useDefault` was given; under Laravel the one of config/websocket.php. */
        function websocket(): Websocket
        {
            return Websocket::default();
        }
    }
}

namespace {
    if (! function_exists('websocket')) {
        /** The sender that `Websocket::useDefault` was given; under Laravel the one of config/websocket.php. */
        function websocket(): Plugsocket\Websocket
        {
            return Plugsocket\Websocket::default();
        }
    }
}
