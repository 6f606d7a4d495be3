"""This room runs the arm's driver in a process of its own, so that nothing else on this computer can starve it.

    main process (policy, replay, cameras)        driver process `python -m actors.real.driver` (numpy and ur_rtde only)
    client.ArmClient ◄── one packet per call, and signs of life while it waits ──► __main__ ──► arm.UrArm ──► controller

    wire     what travels between the two: small JSON packets over an inherited pair of sockets
    client   the arm as the main process sees it; its methods are those of `arm.UrArm`
    owner    one program at a time drives an arm
    priority goes before other work of the computer

Whatever happens to either process, the arm stops: the driver holds it when the main process ends, is stopped or falls
silent; when the driver itself ends or is stopped, the controller's watchdog ends the control script.
"""
