from triplex_deploy.cli.main import main

main()
